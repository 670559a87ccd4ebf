"""Commands of many trainings that go on where they stopped."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .data import DataMissing
from .training.files import write_json
from .training.loop import Interrupted


def remember(plan: dict[str, Any], out: Path) -> None:
    """Keeps in `out` what all trainings of a command share.

    Raises:
        ValueError: `out` holds those of another plan; the message names the first difference.
    """
    path = out / "plan.json"
    if path.exists():
        held = json.loads(path.read_text("utf-8"))
        for name, value in plan.items():
            if held.get(name) != value:
                raise ValueError(f"out: {out} has {name} {held.get(name)!r}, got {value!r}")
    write_json(path, plan)


def status_of(run: Callable[[], None]) -> int:
    """Runs a command; returns 0, 2 for bad input, 130 for Ctrl-C, 143 for SIGTERM."""
    try:
        run()
    except (Interrupted, KeyboardInterrupt) as stop:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 128 + getattr(stop, "signal", signal.SIGINT)
    except (DataMissing, ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
