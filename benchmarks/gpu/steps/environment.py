"""The card, its clocks, the versions, and which compiled parts were loaded."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from typing import Any

import torch

from benchmarks.machine import tf32
from benchmarks.measure import CudaClock, contest, spread
from mpkernels.ops import native
from mpkernels.ops.chip import Block, chip_of
from mpkernels.ops.onchip import CLUSTERS

CLOCKS = (
    "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
    "power.draw", "power.limit", "temperature.gpu",
    "clocks_event_reasons.active", "mig.mode.current",
)  # fmt: skip


def cases() -> list[str]:
    """There is one."""
    return ["environment"]


def clocks() -> dict[str, str]:
    """What nvidia-smi reports on the card now; empty without it."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader"]
    output = subprocess.run(command, capture_output=True, text=True).stdout
    return dict(zip(CLOCKS, output.strip().split("\n")[0].split(", ")))


def copy_rate() -> float:
    """Bytes per second, read and written, of a copy of 1 GiB."""
    x = torch.empty(1 << 28, device="cuda")
    y = torch.empty_like(x)
    times = contest({"copy": lambda: y.copy_(x)}, 9, CudaClock())
    return 2 * x.nbytes / spread(times["copy"])["median"] * 1e6


def active_clusters(device: torch.device) -> dict[str, int]:
    """How many clusters of each size run at a time, with a block on each multiprocessor."""
    chip = chip_of(device)
    if chip is None:
        return {}
    blocks = (Block(False, 4, 2, cluster, 512, chip.block_bytes) for cluster in CLUSTERS[1:])
    return {str(b.cluster): chip.active_clusters(b) for b in blocks if b.cluster <= chip.cluster}


def run(case: str) -> dict[str, Any]:
    """The row; RuntimeError where torch has no GPU."""
    if not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU")
    card, device = torch.cuda.get_device_properties(0), torch.device("cuda", 0)
    return {
        "card": card.name,
        "multiprocessors": card.multi_processor_count,
        "l2_bytes": card.L2_cache_size,
        "memory_bytes": card.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "tf32": tf32(),
        "cuda_library": native.why_no_cuda or "loaded",
        "cpu_library": native.why_no_cpu or "loaded",
        "active_clusters": active_clusters(device),
        "copy_gigabytes_per_second": round(copy_rate() * 1e-9),
        "clocks": clocks(),
        "date": time.strftime("%Y-%m-%d"),
    }
