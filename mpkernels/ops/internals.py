"""Names of torch that are not public, each with what is done where a torch has it no longer.

The short ways below autograd need them. Without one, the call takes a longer way with the same
values, gradients and errors: "I cannot tell" is always answered as "something may be there".
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function as _public_has_torch_function

missing: list[str] = []


def _named(path: str) -> Any:
    """What torch has under this name, or None, which is remembered."""
    value: Any = torch
    for name in path.split(".")[1:]:
        value = getattr(value, name, None)
    if value is None:
        missing.append(path)
    return value


def _always(*arguments: Any) -> bool:
    return True


def _any_of_these_requires_grad(*arguments: Any) -> bool:
    return any(t.requires_grad for t in tensors_of(arguments))


def tensors_of(arguments: Sequence[Any]) -> list[Tensor]:
    """The tensors among an operator's arguments and in their lists."""
    flat = [v for a in arguments for v in (a if isinstance(a, (list, tuple)) else (a,))]
    return [t for t in flat if isinstance(t, Tensor)]


# The step below autograd itself. Without one of these no operator can take it.
below_autograd: Any = _named("torch._C._AutoDispatchBelowAutograd")
after_autograd: Any = _named("torch._C._after_autograd_keyset")

# What may stand above autograd.
transforms_are_active: Callable[[], bool] = (
    _named("torch._C._are_functorch_transforms_active") or _always
)
dispatch_modes: Callable[[], int] = _named("torch._C._len_torch_dispatch_stack") or _always
tracing_state: Callable[[], Any] = _named("torch._C._get_tracing_state") or _always
has_torch_function: Callable[..., bool] = (
    _named("torch._C._has_torch_function") or _public_has_torch_function
)
any_autocast: Callable[[], bool] = _named("torch._C._is_any_autocast_enabled") or _always
any_requires_grad: Callable[..., bool] = (
    _named("torch._C._any_requires_grad") or _any_of_these_requires_grad
)
# Public autograd.Function.apply does what this does; only the short way around it needs it.
_unwrap: Any = _named("torch._functorch.utils.unwrap_dead_wrappers")
can_unwrap = _unwrap is not None
unwrap_dead_wrappers: Callable[[tuple[Any, ...]], tuple[Any, ...]] = _unwrap or tuple

# Makes tensors without elements; without it calls on GPUs are launched from Python.
make_wrapper: Any = _named("torch.Tensor._make_wrapper_subclass")

_included: Any = _named("torch._C._dispatch_tls_is_dispatch_key_included")
_parse_key: Any = _named("torch._C._parse_dispatch_key")
_has_level = _named("torch.autograd.forward_ad._current_level") is not None
_interpreters: Any = _named("torch._C._functorch.get_interpreter_stack")
_kinds: Any = _named("torch._C._functorch.TransformType")
_has_kernel: Any = _named("torch._C._dispatch_has_kernel_for_dispatch_key")


if _has_level:

    def dual_level_is_open() -> bool:
        """Whether forward-mode derivatives may be computed: in this process, not this thread."""
        return forward_ad._current_level >= 0

else:
    dual_level_is_open = _always


def any_tangent(arguments: Sequence[Any]) -> bool:
    """Whether forward mode derives any of an operator's arguments."""
    return dual_level_is_open() and any(
        forward_ad.unpack_dual(t).tangent is not None for t in tensors_of(arguments)
    )


# TorchScript's tracer; forward mode's level, which `nothing_above` reads without a call.
is_tracing: Callable[[], bool] = _named("torch._C._is_tracing") or bool
can_see_levels = _has_level

# Whether torch.autograd maps over gradients, which it does without torch.func.
gradients_are_batched: Callable[[], bool] = (
    _always
    if _included is None or _parse_key is None
    else functools.partial(_included, _parse_key("VmapMode"))
)


def transforms_in_force() -> list[Any]:
    """The kinds of torch.func's transforms in force, from the outermost to the innermost.

    None is one that cannot be told.
    """
    if not transforms_are_active():
        return []
    stack = _interpreters() if _interpreters is not None and _kinds is not None else None
    return [interpreter.key() for interpreter in stack or ()] or [None]


# Steps out of all transforms of torch.func; without it explain cannot look from within one.
without_transforms: Callable[[], Any] = (
    _named("torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack") or nullcontext
)
REVERSE_MODE, VMAP = getattr(_kinds, "Grad", ""), getattr(_kinds, "Vmap", "")


# The running backward of this thread, -1 if there is none; without it none is seen.
_backward: Callable[[], int] = _named("torch._C._current_graph_task_id") or (lambda: -1)


def in_backward() -> bool:
    """Whether autograd runs this thread, and so a forward is one that checkpointing repeats."""
    return _backward() >= 0


# The module of torch.onnx.export and its function that returns operator -> decomposition. Without
# them the exporter names the operator that it cannot translate.
ONNX_EXPORTER = "torch.onnx._internal.exporter._decomp"
ONNX_TABLE = "create_onnx_friendly_decomposition_table"


def of_no_function_mode(operator: Any) -> Any:
    """The operator without the look that its Python call takes for modes of functions."""
    return getattr(operator, "_op", operator)


def has_kernel(operator: str, key: str) -> bool:
    """Whether a library has registered a kernel for an operator of this name, if it exists."""
    if not hasattr(torch.ops.mpkernels, operator):
        return False
    return _has_kernel is None or bool(_has_kernel(f"mpkernels::{operator}", key))


# Whether kernels can be reached from below autograd at all.
autograd_can_be_passed = below_autograd is not None and after_autograd is not None


if missing:
    how = (
        "takes longer ways to its kernels"
        if autograd_can_be_passed
        else "runs its eager definition"
    )
    warnings.warn(
        f"mpkernels {how}: torch {torch.__version__} has no {', '.join(missing)}. Results are the "
        "same; a newer mpkernels may know this torch",
        RuntimeWarning,
        stacklevel=2,
    )
