"""The steps of the GPU report, in the order of their worth, with the time that each may take."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


class Step(NamedTuple):
    """A module of this package that has `cases()`, their names, and `run(name)`, a row.

    The first cases of a step are those that are worth most.
    """

    name: str
    workers: int  # side by side; what is timed runs alone, or takes the card for itself
    case_seconds: float  # after which a case is given up
    seconds: float  # of all cases, the start of their processes included
    environment: dict[str, str] = {}  # of the processes
    sources: tuple[str, ...] = ()  # what its rows depend on, beside the package and its module

    def module(self) -> Any:
        """The step's module."""
        return importlib.import_module(f"benchmarks.gpu.{self.name}")


# cuBLAS asks for it where torch is told to be deterministic, which fills new tensors with NaN.
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
CHECKED = ("benchmarks/gpu/drawn.py", "benchmarks/gpu/float64.py", "tests/closeness.py")
TIMED = (
    "benchmarks/gpu/graphs.py", "benchmarks/measure.py", "benchmarks/problem.py",
    "benchmarks/baselines.py", "benchmarks/training.py",
)  # fmt: skip
# On 16 cores the first six take about four minutes, and are worth having alone.
STEPS = [
    Step("environment", 1, 20, 30),
    # A launch that fails raises at its own line, and one that hangs has it in its stack.
    Step("launches", 16, 30, 80, {"CUDA_LAUNCH_BLOCKING": "1"} | DETERMINISTIC, CHECKED),
    Step("correctness", 16, 45, 75, DETERMINISTIC, CHECKED),
    Step("routers", 1, 20, 115, {}, TIMED),
    Step("host", 1, 15, 20, {}, TIMED),
    Step("networks", 1, 40, 60, {}, TIMED),
    Step("compiled", 16, 80, 90, {}, TIMED),
    Step("device_tests", 16, 60, 65, DETERMINISTIC, ("tests/*.py",)),
    Step("sanitizer", 3, 100, 105),
    Step("counters", 1, 20, 60),
    Step("tuning", 1, 15, 40),
]
MUST_HAVE = 6
