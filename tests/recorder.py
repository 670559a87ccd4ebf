"""Records launches instead of making them: what a launcher would run, with its arguments."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from mpkernels.triton import cross_connect, gate, mix, parameters


class Launched(NamedTuple):
    kernel: object
    grid: tuple
    arguments: tuple
    constants: dict
    num_warps: int


class _Stub:
    def __init__(self, kernel, launches):
        self._kernel, self._launches = kernel, launches

    def __getitem__(self, grid):
        def launch(*arguments, num_warps, **constants):
            self._launches.append(Launched(self._kernel, grid, arguments, constants, num_warps))

        return launch


_KERNELS = [
    (cross_connect, "resident_kernel"),
    (cross_connect, "resident_backward_kernel"),
    (cross_connect, "streamed_kernel"),
    (cross_connect, "streamed_backward_kernel"),
    (gate, "_gate_kernel"),
    (gate, "_gate_backward_kernel"),
    (mix, "_mix_kernel"),
    (mix, "_grad_gates_kernel"),
    (parameters, "_parameter_gradients_kernel"),
]


@contextlib.contextmanager
def recorded_launches():
    """Yields the list of launches; nothing runs, outputs stay unset."""
    launches: list[Launched] = []
    kernels = [(module, name, getattr(module, name)) for module, name in _KERNELS]
    try:
        for module, name, kernel in kernels:
            setattr(module, name, _Stub(kernel, launches))
        yield launches
    finally:
        for module, name, kernel in kernels:
            setattr(module, name, kernel)
