"""Where a command runs: versions, hardware, and the commit of the sources."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import mpkernels


def _commit() -> str | None:
    """The commit of this checkout; None if this is no checkout or git is not installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, maybe within a repository of somebody's own
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8").stdout.strip() or None
    except FileNotFoundError:
        return None


def _processor() -> str:
    """The processor's name, if the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "CPU")


def environment(device: str) -> dict[str, Any]:
    """Versions, hardware, the command, and the commit if this is a checkout."""
    gpu = device.startswith("cuda")
    return {
        "command": " ".join(sys.argv),
        "commit": _commit(),
        "mpkernels": mpkernels.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if gpu else _processor(),
        "threads": torch.get_num_threads(),
    }
