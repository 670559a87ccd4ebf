"""Where this test run computes."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu"  # of maps and parameters; pytest's option --device sets it
BACKENDS = ["triton"] if INTERPRETED else ["native", "eager"]  # those that run on DEVICE


def use_device(name: str) -> None:
    """Sets the device on which all test problems create their tensors."""
    global DEVICE
    DEVICE = name
    if name == "cuda":
        BACKENDS[:] = ["triton"]
