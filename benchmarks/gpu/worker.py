"""A process that runs cases of a step: `python -m benchmarks.gpu.worker STEP`.

Each line that it reads from stdin names a case; it answers with the row. Whatever else is printed
goes to stderr. After a failure it says whether the CUDA context is broken and the process must be
replaced.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import re
import signal
import sys
import traceback
from typing import Any

import torch


def is_broken() -> bool:
    """Whether the card refuses work from this process."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except RuntimeError:
        return True
    return False


def row_of(step: Any, case: str) -> dict[str, Any]:
    """The step's row of the case, or the error that it raised."""
    try:
        row = {"state": "done", **step.run(case)}
    except Exception as error:  # noqa: BLE001  (any error belongs into the row)
        why = re.sub(r"(/[\w.+-]+){2,}/", "", f"{type(error).__name__}: {error}")
        row = {"state": "failed", "why": why[:500], "traceback": traceback.format_exc()}
        return row | {"broken": is_broken()}
    if row.get("right") is False:
        row["state"] = "wrong"
    return row


def main(name: str) -> None:
    """Answers until stdin ends."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(row: dict[str, Any]) -> None:
        answers.write(json.dumps(row) + "\n")
        answers.flush()

    step = importlib.import_module(f"benchmarks.gpu.steps.{name}")
    if torch.cuda.is_available():
        # Graphs cannot be captured on the default stream; see `graphs.captured`.
        torch.cuda.set_stream(torch.cuda.Stream())
    answer({"ready": True})
    for line in sys.stdin:
        answer(row_of(step, json.loads(line)))


if __name__ == "__main__":
    main(sys.argv[1])
