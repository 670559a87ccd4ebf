"""Where launches go: to the GPU, or into the plan of a call, which C++ follows later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mpkernels.ops import native


def forget_plans() -> None:
    """For who changes the rule: C++ launches what the rule has said of a geometry before."""
    if native.why_no_cpu is None:
        torch.ops.mpkernels.forget_plans()


def follow_plans(on: bool) -> bool:
    """Whether C++ launches, for calls from now on; returns whether it did."""
    return native.why_no_cpu is None and torch.ops.mpkernels.follow_plans(on)  # type: ignore[no-any-return]


class _Planning(threading.local):
    planner: Any = None


_planning = _Planning()


@contextmanager
def planned_by(planner: Any) -> Iterator[None]:
    """Within it, what this thread launches is planned instead; see triton/plan.py."""
    _planning.planner = planner
    try:
        yield
    finally:
        _planning.planner = None


def launched(kernel: Any, grid: tuple[int, ...]) -> Callable[..., Any]:
    """What launches a kernel with these blocks, or plans it."""
    planner = _planning.planner
    return kernel[grid] if planner is None else planner.launch(kernel, grid)  # type: ignore[no-any-return]
