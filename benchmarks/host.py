"""Python's time of a router call on a GPU, up to the launches: `python -m benchmarks.host`.

The launches themselves do nothing, so that no GPU is needed: CPU tensors take the way through
dispatcher, autograd and launcher that CUDA tensors take. Times are medians over rounds in which
all candidates take turns, as multiples of one `torch.nn.functional.linear` call of the same
small size.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import linear

import mpkernels as mpk
from benchmarks.measure import Step, contest

ROUNDS = 41


class _Nothing:
    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *arguments, **constants: None


@contextlib.contextmanager
def no_launches() -> Iterator[None]:
    """Every kernel of the launchers does nothing."""
    from mpkernels.triton import cross_connect, gate, gate_parameter_grads, mix

    saved = [
        (module, name, kernel)
        for module in (cross_connect, gate, gate_parameter_grads, mix)
        for name, kernel in vars(module).items()
        if name.endswith("_kernel")
    ]
    try:
        for module, name, _ in saved:
            setattr(module, name, _Nothing())
        yield
    finally:
        for module, name, kernel in saved:
            setattr(module, name, kernel)


def candidates() -> dict[str, Step]:
    """What is timed: a vector router and a map router, with and without autograd."""
    made: dict[str, Step] = {}
    x, weight = torch.randn(128, 32), torch.randn(32, 32)
    made["linear"] = lambda: linear(x, weight)
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

        made[f"{name} forward"], made[f"{name} forward+backward"] = forward, both
    return made


def measure() -> dict[str, float]:
    """Median microseconds a call by candidate."""
    with mpk.use_backend("triton"), no_launches():
        times = contest(candidates(), ROUNDS)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Prints the table; needs TRITON_INTERPRET=1 where there is no GPU."""
    torch.set_num_threads(1)
    found = measure()
    for name, microseconds in found.items():
        ratio = microseconds / found["linear"]
        print(f"{name:30} {microseconds:8.1f} us {ratio:7.1f} x linear")
    return 0


if __name__ == "__main__":
    sys.exit(main())
