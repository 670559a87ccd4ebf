"""Host time of a router's call on a GPU: how long a network's step waits for Python."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import baselines
from benchmarks.cases import Case
from benchmarks.measure import Step, contest, spread
from benchmarks.problem import Problem
from mpkernels.triton.launching import follow_plans

CALLS = 10  # per turn: their launches fit the driver's queue, so no call waits for the card
ROUNDS = 9
CASES = {
    str(case): case
    for case in (
        Case(8, 64, (8, 8), 2, 2), Case(8, 32, (16, 16), 3, 3), Case(8, 32, (), 3, 3),
        Case(8, 64, (8, 8), 2, 2, "bf16"), Case(8, 16, (32, 32), 3, 3),
    )
}  # fmt: skip


def cases() -> list[str]:
    """Routers with so few samples that the card finishes before the host."""
    return list(CASES)


class _HostClock:
    """The time until calls return; the card is idle when they begin."""

    shortest = 0.0

    def turn(self, step: Step, calls: int) -> Callable[[], float]:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(CALLS):
            step()
        taken = 1e6 * (time.perf_counter() - begin) / CALLS
        return lambda: taken

    def settle(self) -> None:
        torch.cuda.synchronize()


def run(name: str) -> dict[str, Any]:
    """Microseconds per call: forward without autograd, and forward with backward."""
    problem = Problem(CASES[name], "cuda", torch.float32)

    def of(contender: str, function: baselines.Router) -> dict[str, Step]:
        forward, both = problem.forward(function), problem.both(function)
        return {f"{contender} forward": forward, f"{contender} both": both}

    steps = {**of("fused", baselines.fused), **of("loops", baselines.loops)}
    times = contest(steps, ROUNDS, _HostClock())
    followed = follow_plans(False)
    try:
        steps = of("Triton's launcher", baselines.fused)
        times |= contest(steps, ROUNDS, _HostClock())
    finally:
        follow_plans(followed)
    return {"microseconds": {step: spread(values) for step, values in times.items()}}
