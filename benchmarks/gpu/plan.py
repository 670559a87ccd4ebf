"""The steps of the GPU report, most valuable first, with the time that each may take."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


class Step(NamedTuple):
    """A module of this folder with `cases()`, which names its cases, and `run(name)`, a row.

    Its most valuable cases come first.
    """

    name: str
    workers: int  # side by side; a timed step has one, or takes the card for itself
    case_seconds: float  # the time limit of a case
    seconds: float  # the time limit of all cases, including the start of their processes
    environment: dict[str, str] = {}  # of the processes
    sources: tuple[str, ...] = ()  # what its rows depend on besides the package and its module

    def module(self) -> Any:
        """The step's module."""
        return importlib.import_module(f"benchmarks.gpu.steps.{self.name}")


# cuBLAS needs it where torch is told to be deterministic, which fills new tensors with NaN.
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
CHECKED = (
    *(f"benchmarks/gpu/steps/{name}.py" for name in ("correctness", "drawn", "float64")),
    "proof/*.py",
)  # fmt: skip
TABLES = ("proof/*.py", "proof/problems/*.py", "tests/operators/*.py", "tests/kernels/*.py")
TIMED = (
    "benchmarks/gpu/steps/graphs.py", "benchmarks/measure.py", "benchmarks/workload.py",
    "benchmarks/problem.py", "benchmarks/baselines.py", "benchmarks/training.py",
)  # fmt: skip
INDUCTOR = {"TORCHINDUCTOR_COMPILE_THREADS": "2"}  # per process, of which there are eight
FIRST = [Step("environment", 1, 10, 10)]  # also under --only: every row names the card
STEPS = [
    # Blocking: a launch that fails raises at its own line, one that hangs has it on its stack.
    Step("launches", 16, 30, 40, {"CUDA_LAUNCH_BLOCKING": "1"} | DETERMINISTIC, CHECKED),
    Step("correctness", 16, 30, 55, DETERMINISTIC, CHECKED),
    Step("routers", 1, 20, 70, {}, TIMED),
    Step("host", 1, 15, 15, {}, TIMED),
    Step("networks", 1, 40, 50, {}, TIMED),
    Step("compiled", 8, 100, 110, INDUCTOR, TIMED),
    Step("device_tests", 16, 100, 110, DETERMINISTIC, TABLES),
    Step("compiled_networks", 8, 170, 180, INDUCTOR, TIMED),
    Step("tuning", 1, 15, 40),
    Step("counters", 1, 20, 60),
    Step("sanitizer", 3, 100, 105),
]
# With the environment these take four minutes at most on 16 cores; they are worth having alone.
MUST_HAVE = ("launches", "correctness", "routers", "host", "networks")
