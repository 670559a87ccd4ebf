"""Python's share of a router call on a GPU: `python -m benchmarks.gpu.python_time`.

The launches do nothing, so this needs no GPU: CPU tensors take the way through dispatcher, autograd
and launcher that CUDA tensors take. Times are medians over rounds in which all candidates take
turns, as multiples of one `torch.nn.functional.linear` call of the same small size.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import linear

import mpkernels as mpk
from benchmarks.measure import Step, contest
from proof.launches import intercepted

ROUNDS = 41


def _no_launch(kernel: Any, grid: Any) -> Callable[..., None]:
    return lambda *arguments, **constants: None


def candidates() -> dict[str, Step]:
    """What is timed: a vector router and a map router, with and without autograd."""
    steps: dict[str, Step] = {}
    x, weight = torch.randn(128, 32), torch.randn(32, 32)
    steps["linear"] = lambda: linear(x, weight)
    for name, shape in (("[128, 32]", (128, 32)), ("[4, 64, 8, 8]", (4, 64, 8, 8))):
        router = mpk.CrossConnect(shape[1], 2, 2)
        plain = [torch.randn(shape) for _ in range(2)]
        leaves = [t.clone().requires_grad_() for t in plain]
        grads = [torch.ones(shape) for _ in range(2)]

        def forward(router: Any = router, plain: Any = plain) -> None:
            with torch.no_grad():
                router(plain)

        def both(router: Any = router, leaves: Any = leaves, grads: Any = grads) -> None:
            torch.autograd.backward(router(leaves), grads)

        steps[f"{name} forward"], steps[f"{name} forward+backward"] = forward, both
    return steps


def measure() -> dict[str, float]:
    """Median microseconds per call by candidate."""
    with mpk.use_backend("triton"), intercepted(_no_launch):
        times = contest(candidates(), ROUNDS)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Prints the times; needs TRITON_INTERPRET=1 where there is no GPU."""
    torch.set_num_threads(1)
    times = measure()
    for name, microseconds in times.items():
        ratio = microseconds / times["linear"]
        print(f"{name:30} {microseconds:8.1f} us {ratio:7.1f} x linear")
    return 0


if __name__ == "__main__":
    sys.exit(main())
