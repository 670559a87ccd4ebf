"""The GPU report on a GPU that is not there: `python -m benchmarks.gpu.rehearsal [its options]`.

Every kernel that its steps need is compiled for sm_90 by the Triton that is installed; an error, a
spill or more shared stores than a kernel may have is a failed row. Results count as right.
In the environment PLANTED=exception, hang, wrong or death makes that of every launch of mix, and
SLOWER is how much longer than on 16 cores the steps may take.
"""

from __future__ import annotations

import os
import sys
import time

import torch

WORKER = [sys.executable, "-m", "benchmarks.gpu.rehearsal", "--worker"]


def _once(steps, rounds, clock=None):
    """`contest` with one call of each."""
    for step in steps.values():
        step()
    return {name: [1.0, 1.0] for name in steps}


def work(step: str) -> None:
    """What a process of the step does: each call once, with results that count as right."""
    from benchmarks import measure
    from benchmarks.gpu.rehearsal import fake_gpu

    measure.contest = _once
    fake_gpu.fake_torch_cuda()
    fake_gpu.compile_without_launching()
    torch.set_num_threads(1)
    torch.randn = lambda *shape, device=None: torch.empty(
        *(shape if isinstance(shape[0], int) else shape[:1])
    )
    from benchmarks import problem
    from benchmarks.gpu import worker
    from benchmarks.gpu.steps import (
        compiled_networks,
        correctness,
        environment,
        graphs,
        networks,
    )

    problem.Problem.verdicts = lambda self, routers: dict.fromkeys(routers, "right")
    correctness.expected = lambda operator, problem: {}
    correctness.shares = lambda found, wanted: {"": 0.0}
    torch.equal = lambda one, other: True
    networks.is_right = lambda *arguments: True
    networks.graph_apart = lambda *arguments: (0.0, 0.0)
    torch.compile = lambda function, **options: function
    torch.nn.Module.compile = lambda self, **options: None
    # A new batch compiles nothing.
    networks.BATCHES.update(dict.fromkeys(networks.BATCHES, 2))
    graphs.MOST = graphs.FEWEST = 1
    graphs.WARM_UP = networks.WARM_UP = compiled_networks.WARM_UP = 1
    networks.STEPS = 2
    torch.backends.cudnn.version = lambda: None
    environment.chip_of = lambda device: None
    environment.copy_rate = lambda: 1.0
    if kind := os.environ.get("PLANTED"):
        plant(kind)
    worker.main(step)


def plant(kind: str) -> None:
    """What is to go wrong with mix in the step `launches`."""
    from benchmarks.gpu.steps import launches

    real = launches.check

    def check(case, operator, device="cuda"):
        if not operator.startswith("mix"):
            return real(case, operator, device)
        if kind == "exception":
            raise RuntimeError("planted")
        if kind == "hang":
            time.sleep(10000)
        if kind == "death":
            os.abort()
        return real(case, operator, device) | {"right": False, "wrong": "y0 is 7 bounds off"}

    launches.check = check


def main() -> int:
    """The report's exit status."""
    from benchmarks.gpu import plan
    from benchmarks.gpu.__main__ import main as report

    slower = float(os.environ.get("SLOWER", max(1, 32 // (os.cpu_count() or 1))))
    plan.STEPS[:] = [
        step._replace(
            workers=min(step.workers, os.cpu_count() or 1),
            case_seconds=15 if os.environ.get("PLANTED") == "hang" else step.case_seconds * slower,
            seconds=step.seconds * slower,
        )
        for step in plan.STEPS
    ]
    return report(sys.argv[1:], WORKER)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2])
    else:
        sys.exit(main())
