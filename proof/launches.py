"""The Triton kernels that launchers launch, and a way to record or replace their launches."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import mpkernels.triton
from mpkernels.triton.launching import follow_plans

_MODULES = [
    importlib.import_module(f"mpkernels.triton.{module.name}")
    for module in pkgutil.iter_modules(mpkernels.triton.__path__)
]
_BINDINGS = [
    (module, name) for module in _MODULES for name in vars(module) if name.endswith("_kernel")
]
KERNELS = sorted({name for _, name in _BINDINGS})

Launch = Callable[..., Any]


class _Intercepted:
    def __init__(self, kernel: Any, replacement: Callable[[Any, Any], Launch]) -> None:
        self._kernel, self._replacement = kernel, replacement

    def __getitem__(self, grid: Any) -> Launch:
        return self._replacement(self._kernel, grid)


@contextlib.contextmanager
def intercepted(replacement: Callable[[Any, Any], Launch]) -> Iterator[None]:
    """Within it, every launcher's `kernel[grid](...)` runs `replacement(kernel, grid)(...)`.

    Nothing is launched from C++ meanwhile.
    """
    kernels = [getattr(module, name) for module, name in _BINDINGS]
    followed = follow_plans(False)
    try:
        for (module, name), kernel in zip(_BINDINGS, kernels):
            setattr(module, name, _Intercepted(kernel, replacement))
        yield
    finally:
        follow_plans(followed)
        for (module, name), kernel in zip(_BINDINGS, kernels):
            setattr(module, name, kernel)


@contextlib.contextmanager
def launched() -> Iterator[list[str]]:
    """Yields the names of the kernels launched within it, in order."""
    names: list[str] = []

    def record(kernel: Any, grid: Any) -> Launch:
        names.append(kernel.__name__)
        return kernel[grid]

    with intercepted(record):
        yield names
