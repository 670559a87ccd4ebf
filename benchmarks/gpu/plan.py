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

    def module(self) -> Any:
        """The step's module."""
        return importlib.import_module(f"benchmarks.gpu.{self.name}")


# cuBLAS asks for it where torch is told to be deterministic, which fills new tensors with NaN.
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
# On 16 cores the first six take about four minutes, and are worth having alone.
STEPS = [
    Step("environment", 1, 20, 30),
    # A launch that fails raises at its own line, and one that hangs has it in its stack.
    Step("launches", 16, 30, 80, {"CUDA_LAUNCH_BLOCKING": "1"} | DETERMINISTIC),
    Step("correctness", 16, 45, 75, DETERMINISTIC),
    Step("routers", 1, 20, 90),
    Step("host", 1, 15, 20),
    Step("networks", 1, 40, 70),
    Step("device_tests", 4, 75, 80, DETERMINISTIC),
    Step("compiled", 8, 100, 110),
    Step("compiled_networks", 8, 150, 160),
    Step("sanitizer", 3, 100, 105),
    Step("counters", 1, 20, 60),
    Step("tuning", 1, 15, 40),
]
MUST_HAVE = 6
