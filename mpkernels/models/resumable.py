"""Commands of many trainings that go on where they stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .training.files import write_json

STOPPED = "stopped; the same command goes on"


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
