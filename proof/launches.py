"""The Triton kernels that launchers launch, and a way to see or to replace their launches."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import mpkernels.triton

_MODULES = [
    importlib.import_module(f"mpkernels.triton.{module.name}")
    for module in pkgutil.iter_modules(mpkernels.triton.__path__)
]
_PLACES = [
    (module, name) for module in _MODULES for name in vars(module) if name.endswith("_kernel")
]
KERNELS = sorted({name for _, name in _PLACES})

Launch = Callable[..., Any]


class _Intercepted:
    def __init__(self, kernel: Any, instead: Callable[[Any, Any], Launch]) -> None:
        self._kernel, self._instead = kernel, instead

    def __getitem__(self, grid: Any) -> Launch:
        return self._instead(self._kernel, grid)


@contextlib.contextmanager
def intercepted(instead: Callable[[Any, Any], Launch]) -> Iterator[None]:
    """Within it, `kernel[grid](...)` of every launcher runs `instead(kernel, grid)(...)`."""
    kernels = [getattr(module, name) for module, name in _PLACES]
    try:
        for (module, name), kernel in zip(_PLACES, kernels):
            setattr(module, name, _Intercepted(kernel, instead))
        yield
    finally:
        for (module, name), kernel in zip(_PLACES, kernels):
            setattr(module, name, kernel)


@contextlib.contextmanager
def launched() -> Iterator[list[str]]:
    """Yields the names of the kernels that are launched within it, in order."""
    names: list[str] = []

    def instead(kernel: Any, grid: Any) -> Launch:
        names.append(kernel.__name__)
        return kernel[grid]

    with intercepted(instead):
        yield names
