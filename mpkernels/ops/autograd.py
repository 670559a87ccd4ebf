"""The step of an operator below autograd, shared by all of them.

An operator called from Python passes the dispatcher twice: to its Autograd kernel, which applies an
autograd.Function, whose forward calls the operator again. Each pass costs more than the kernel on
small vectors. Where nothing stands above autograd that has to see the call, the autograd.Function
is therefore applied at once, and its forward goes straight to the kernel of the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _after_autograd_keyset,
    _any_requires_grad,
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
    _get_tracing_state,
    _has_torch_function,
    _len_torch_dispatch_stack,
)
from torch._functorch.utils import unwrap_dead_wrappers

from mpkernels.ops.schema import library

# torch.library.register_autograd would do the same at several times the cost for lists of tensors.


def nothing_above(tensors: Sequence[Any]) -> bool:
    """Whether no transform, mode, tracer or subclass has to see a call with these tensors."""
    return not (
        torch.compiler.is_compiling()
        or _are_functorch_transforms_active()
        or _len_torch_dispatch_stack()
        or _get_tracing_state()
        or _has_torch_function(tensors)
    )


class Operator:
    """An operator as Python calls it.

    Args:
        name: in the namespace `mpkernels`.
        differentiable: what runs where a gradient may be needed; it applies an autograd.Function.
    """

    def __init__(self, name: str, differentiable: Callable[..., Any]) -> None:
        self.name = name
        self._operator = operator = getattr(torch.ops.mpkernels, name).default
        self._differentiable = differentiable

        def kernel(keyset: Any, *arguments: Any) -> Any:
            if torch.is_grad_enabled() and _any_requires_grad(*arguments):
                return differentiable(*arguments)
            with _AutoDispatchBelowAutograd():
                return operator.redispatch(keyset & _after_autograd_keyset, *arguments)

        library.impl(name, kernel, "Autograd", with_keyset=True)

    def __call__(self, *arguments: Any) -> Any:
        """Calls it so that whatever may want to see the call does."""
        # torch.func's transforms, which a kernel cannot serve from below the dispatcher, must meet
        # the autograd.Function first.
        if not torch.compiler.is_compiling() and _are_functorch_transforms_active():
            return self._differentiable(*arguments)
        return self._operator(*arguments)

    def route(self, tensors: Sequence[Any]) -> Callable[..., Any]:
        """How to call it with arguments that hold these tensors."""
        return self.direct if nothing_above(tensors) else self

    def direct(self, *arguments: Any) -> Any:
        """Calls it where `nothing_above` holds."""
        if torch.is_grad_enabled() and _any_requires_grad(*arguments):
            return self._differentiable(*arguments)
        with _AutoDispatchBelowAutograd():
            return self._operator(*arguments)


def applier(function: Any) -> Callable[..., Any]:
    """`function.apply` at a third of its cost.

    Saved are its look at the signature of forward, and the separate `setup_context`, for which it
    imports a module at every call. Only torch.func's transforms need that one.
    """
    compute, set_up = function.forward, function.setup_context

    def forward(ctx: Any, *arguments: Any) -> Any:
        with _AutoDispatchBelowAutograd():
            outputs = compute(*arguments)
        set_up(ctx, arguments, outputs)
        return outputs

    members = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    combined = type(function.__name__, (torch.autograd.Function,), members)
    record = super(torch.autograd.Function, combined).apply  # type: ignore[misc]

    def apply(*arguments: Any) -> Any:
        if _are_functorch_transforms_active():
            return function.apply(*arguments)
        return record(*unwrap_dead_wrappers(arguments))

    return apply


def place(grads: list[Tensor], wanted: list[bool]) -> list[Tensor | None]:
    """The gradients at the places where they were wanted, None elsewhere."""
    if len(grads) == len(wanted):
        return [*grads]
    remaining = iter(grads)
    return [next(remaining) if w else None for w in wanted]
