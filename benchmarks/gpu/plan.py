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
CHECKED = ("benchmarks/gpu/drawn.py", "benchmarks/gpu/float64.py", "proof/*.py")
TABLES = ("proof/*.py", "proof/problems/*.py", "tests/operators/*.py", "tests/kernels/*.py")
TIMED = (
    "benchmarks/gpu/graphs.py", "benchmarks/measure.py", "benchmarks/problem.py",
    "benchmarks/baselines.py", "benchmarks/training.py",
)  # fmt: skip
INDUCTOR = {"TORCHINDUCTOR_COMPILE_THREADS": "2"}  # of each process, of which there are eight
FIRST = [Step("environment", 1, 10, 10)]  # whatever else is asked for
STEPS = [
    # A launch that fails raises at its own line, and one that hangs has it in its stack.
    Step("launches", 16, 30, 40, {"CUDA_LAUNCH_BLOCKING": "1"} | DETERMINISTIC, CHECKED),
    Step("correctness", 16, 30, 55, DETERMINISTIC, CHECKED),
    Step("routers", 1, 20, 70, {}, TIMED),
    Step("host", 1, 15, 15, {}, TIMED),
    Step("networks", 1, 40, 50, {}, TIMED),
    Step("compiled", 8, 100, 110, INDUCTOR, TIMED),
    Step(
        "device_tests",
        16,
        100,
        110,
        DETERMINISTIC,
        TABLES,
    ),
    Step("compiled_networks", 8, 170, 180, INDUCTOR, TIMED),
    Step("tuning", 1, 15, 40),
    Step("counters", 1, 20, 60),
    Step("sanitizer", 3, 100, 105),
]
# With the first, these take four minutes at most on 16 cores, and are worth having alone.
MUST_HAVE = ("launches", "correctness", "routers", "host", "networks")
