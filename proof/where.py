"""Where this run of the tests computes."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu"  # of maps and parameters; the option --device of the tests sets it
BACKENDS = ["triton"] if INTERPRETED else ["native", "eager"]  # that run tensors of this device


def use_device(name: str) -> None:
    """All tensors of problems are made there."""
    global DEVICE
    DEVICE = name
    if name == "cuda":
        BACKENDS[:] = ["triton"]
