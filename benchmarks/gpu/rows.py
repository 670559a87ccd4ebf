"""Rows of the GPU report: one JSON line per case, on the disk as soon as it is known."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import Step
from proof.where import ROOT

# wrong: the case ran, and a value is outside its bound. not reached: its step ran out of time.
STATES = ("done", "wrong", "failed", "timed out", "not reached")
VERSIONS = ("torch", "triton")
# What every step's rows depend on.
PACKAGE = ("mpkernels/**/*.py", "csrc/**/*.*")
Row = dict[str, Any]


def source_hash(step: Step) -> str:
    """A hash of the package's sources, the step's module and the other files that it names."""
    patterns = (*PACKAGE, f"benchmarks/gpu/steps/{step.name}.py", *step.sources)
    total = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in ROOT.glob(pattern)}):
        total.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def append(path: Path, row: Row) -> None:
    """Adds a line and waits until it is on the disk: the machine may be lost in the next case."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Row]:
    """The last row of each case; a line that was cut off does not count."""
    last: dict[tuple[str, str], Row] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        last[row["step"], row["case"]] = row
    return list(last.values())


def is_settled(row: Row, step: Step, versions: Row) -> bool:
    """Whether a row need not be measured again: it is done, with these sources and versions."""
    return (
        row["state"] == "done"
        and row["sources"] == source_hash(step)
        and all(row.get(name) == versions[name] for name in VERSIONS)
    )


def of_step(rows: Iterable[Row], step: str, state: str | None = None) -> list[Row]:
    """The rows of a step, only those of one state if it is named."""
    return [row for row in rows if row["step"] == step and state in (None, row["state"])]
