"""The step of an operator below autograd, shared by all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _after_autograd_keyset,
    _any_requires_grad,
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
)
from torch._functorch.utils import unwrap_dead_wrappers

from mpkernels.ops.schema import library

# torch.library.register_autograd would do the same at several times the cost for lists of tensors.


def register(name: str, differentiable: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `differentiable(*arguments)` run where a gradient may be needed.

    It applies an autograd.Function whose forward calls the operator again, with gradients off.

    Returns:
        The operator as Python calls it: torch.func's transforms, which a kernel cannot serve from
        below the dispatcher, meet the autograd.Function first.
    """
    operator = getattr(torch.ops.mpkernels, name).default

    def kernel(keyset: Any, *arguments: Any) -> Any:
        if torch.is_grad_enabled() and _any_requires_grad(*arguments):
            return differentiable(*arguments)
        with _AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & _after_autograd_keyset, *arguments)

    library.impl(name, kernel, "Autograd", with_keyset=True)

    def call(*arguments: Any) -> Any:
        if not torch.compiler.is_compiling() and _are_functorch_transforms_active():
            return differentiable(*arguments)
        return operator(*arguments)

    return call


def apply(function: Any, *arguments: Any) -> Any:
    """`function.apply`, without its look at the signature of forward, half the time of a call."""
    if _are_functorch_transforms_active():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*unwrap_dead_wrappers(arguments))


def place(grads: list[Tensor], wanted: list[bool]) -> list[Tensor | None]:
    """The gradients at the places where they were wanted, None elsewhere."""
    remaining = iter(grads)
    return [next(remaining) if w else None for w in wanted]
