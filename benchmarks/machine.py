"""What a result was measured on and with."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from models.environment import environment
from mpkernels.ops import native

# glibc gives large blocks back at once and asks the system for them again, page by page: time
# that depends on what was allocated before. With these it keeps them, for all contenders alike.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
IDLE = 0.5  # the load of the last minute below which a machine has nothing else to do


def with_allocator() -> None:
    """Starts this command again with the variables of ALLOCATOR that are not set yet."""
    missing = {name: value for name, value in ALLOCATOR.items() if name not in os.environ}
    if missing:
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **missing})


def load() -> float:
    """Processes that ran or waited, averaged over the last minute."""
    return round(os.getloadavg()[0], 2)


def caches() -> dict[str, str]:
    """Size of each cache of the first core and how many cores share it."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size, cores = (
            (index / name).read_text().strip()
            for name in ("level", "type", "size", "shared_cpu_list")
        )
        name = f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")
        sizes[name] = f"{size} (cores {cores})"
    return sizes


def commit() -> str:
    """The checkout's commit, and whether files differ from it."""
    described = environment("cpu")["commit"] or "unknown"
    return str(described).replace("-dirty", " and changes")


def tf32() -> dict[str, bool]:
    """Whether float32 operands may be rounded to TF32 on a GPU."""
    return {
        "matmul": torch.backends.cuda.matmul.allow_tf32,
        "convolution": torch.backends.cudnn.allow_tf32,
    }


def describe() -> dict[str, Any]:
    """Of a CPU result: hardware, versions, commit, allocator and command."""
    here = environment("cpu")
    return {
        "command": f"python -m benchmarks {shlex.join(sys.argv[1:])}".strip(),
        "processor": here["device"],
        "cores": os.cpu_count(),
        "caches": caches(),
        "instruction_set": native.why_no_cpu or torch.ops.mpkernels.instruction_set(""),
        "system": f"{platform.system()} {platform.machine()}",
        "python": here["python"],
        "torch": here["torch"],
        "mpkernels": here["mpkernels"],
        "commit": commit(),
        "allocator": {
            "libc": " ".join(platform.libc_ver()),
            **{name: os.environ.get(name, "") for name in (*ALLOCATOR, "LD_PRELOAD")},
        },
    }
