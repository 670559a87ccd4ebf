"""Triton's kernels of this package, and what takes their place for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mpkernels.triton import combine, combine_sums, cross_connect, gate, mix, parameters

LAUNCHERS = (combine, combine_sums, cross_connect, gate, mix, parameters)
KERNELS = sorted(
    {name for module in LAUNCHERS for name in vars(module) if name.endswith("_kernel")}
)


@contextlib.contextmanager
def replaced(replace: Callable[[str, Any], Any]) -> Iterator[None]:
    """Launchers find `replace(name, kernel)` in the place of each kernel, until the end."""
    kernels = [
        (module, name, getattr(module, name))
        for module in LAUNCHERS
        for name in KERNELS
        if hasattr(module, name)
    ]
    for module, name, kernel in kernels:
        setattr(module, name, replace(name, kernel))
    try:
        yield
    finally:
        for module, name, kernel in kernels:
            setattr(module, name, kernel)


def never_launched(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Kernels that no row has run to its end."""
    launched = {kernel for row in rows for kernel in row.get("kernels", ())}
    return [name for name in KERNELS if name not in launched]
