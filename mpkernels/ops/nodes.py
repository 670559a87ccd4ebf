"""The operators' calls and autograd nodes in C++, where the torch they were built against runs.

They spare host time and change nothing else but `grad_fn`. Without them, Python does the same
(ops/operator.py, ops/short_way.py).
"""

from __future__ import annotations

import importlib
import platform
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpkernels.ops import below, native, switch
from mpkernels.ops.record import build_record, path_of, why_unusable


def _why_built_for_others() -> str | None:
    record = build_record()
    built = record.get("torch"), str(record.get("python")).rpartition(".")[0]
    here = torch.__version__, platform.python_version().rpartition(".")[0]
    if built == here:
        return None
    return "it was built for torch {} and Python {}, here are {} and {}".format(*built, *here)


def _load() -> tuple[Any, str | None]:
    """The module, or why there is none."""
    if native.why_no_cpu is not None:
        return None, "library _C is not loaded"
    if reason := why_unusable("_nodes"):
        if path_of("_nodes").exists():
            warnings.warn(
                f"mpkernels runs its autograd nodes in Python: {reason}. {native.advice()}",
                RuntimeWarning,
                stacklevel=2,
            )
        return None, reason
    if reason := _why_built_for_others():
        return None, reason
    try:
        return importlib.import_module("mpkernels._nodes"), None
    except ImportError as error:
        return None, str(error) or type(error).__name__


_module, why_none = _load()
if _module is not None:
    _module.ask(switch.thread_runs, below.raise_as_it_was)
    switch.tell(_module.force)


def never(*arguments: Any) -> None:
    """Leaves every call to Python."""


def caller_of(
    name: str, *, routed: bool = False, kept: int = 0, hidden: int = 0
) -> Callable[..., list[Tensor] | None]:
    """What runs an operator, recorded if it is routed, or returns None where Python has to.

    It has to where anything may want to see the call, where arguments are not what the operator
    takes, and where a backend is forced. Bad shapes raise RuntimeError.
    """
    if _module is None:
        return never
    return _module.declare(name, routed, kept, hidden)  # type: ignore[no-any-return]
