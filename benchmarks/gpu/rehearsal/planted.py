"""A step of the GPU report whose cases go wrong in every way, and its worker when run."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

OUTCOMES = ("right", "wrong", "exception", "hang", "death", "broken")


def cases() -> list[str]:
    return list(OUTCOMES)


def run(case: str) -> dict[str, object]:
    kind = case.split()[0]
    if kind == "wrong":
        return {"right": False, "wrong": "y0 is 7 bounds off", "process": os.getpid()}
    if kind in ("exception", "broken"):
        raise ValueError(f"planted in {Path(__file__).parent}/somewhere.py")
    if kind == "hang":
        time.sleep(1000)
    if kind == "death":
        print("the last words of a process", file=sys.stderr, flush=True)
        os._exit(3)
    print("what a library prints is no answer")
    return {"right": True, "process": os.getpid()}


if __name__ == "__main__":
    from benchmarks.gpu import worker

    # A broken context stays broken, and an exception alone breaks none.
    real = worker.row_of
    worker.is_broken = lambda: broken[-1]
    broken = [False]

    def row_of(step: object, case: str) -> dict[str, object]:
        broken.append(case.startswith("broken"))
        return real(step, case)

    worker.row_of = row_of
    sys.modules["benchmarks.gpu.steps.planted"] = sys.modules["__main__"]
    worker.main("planted")
