"""How every operator gets from Python through autograd to its kernel.

An operator called from Python passes the dispatcher twice: to its Autograd kernel, which applies an
autograd.Function, whose forward calls the operator again. Each pass costs more than the kernel on
small vectors. Where nothing stands above autograd that has to see the call, the autograd.Function
is therefore applied at once, and its forward goes straight to the kernel of the device.

An autograd.Function serves one reverse mode. Whatever else derives or maps the call (forward mode,
the transforms of torch.func and their compositions) meets the definition, whose every step it can
follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mpkernels.ops.internals import (
    after_autograd,
    any_requires_grad,
    below_autograd,
    dispatch_modes,
    dual_level_is_open,
    gradients_are_batched,
    has_torch_function,
    only_reverse_mode,
    short_way_exists,
    tensors_of,
    tracing_state,
    transforms_are_active,
    unwrap_dead_wrappers,
)
from mpkernels.ops.schema import library
from mpkernels.ops.switch import active_backend, thread_runs

# torch.library.register_autograd would do the same at several times the cost for lists of tensors.
SHORT_WAY = short_way_exists()


def nothing_above(tensors: Sequence[Any]) -> bool:
    """Whether no transform, mode, tracer or subclass has to see a call with these tensors.

    Never where there is no short way to take.
    """
    return SHORT_WAY and not (
        torch.compiler.is_compiling()
        or transforms_are_active()
        or dual_level_is_open()
        or gradients_are_batched()
        or dispatch_modes()
        or tracing_state()
        or has_torch_function(tensors)
    )


def _have_tangents(arguments: Sequence[Any]) -> bool:
    """Whether forward mode derives any of an operator's arguments."""
    return dual_level_is_open() and any(
        forward_ad.unpack_dual(t).tangent is not None for t in tensors_of(arguments)
    )


class Operator:
    """An operator as Python calls it.

    Args:
        name: in the namespace `mpkernels`.
        differentiable: what runs where a gradient may be needed; it applies an autograd.Function.
        definition: the operator in plain PyTorch, through which every transform sees.
    """

    def __init__(
        self, name: str, differentiable: Callable[..., Any], definition: Callable[..., Any]
    ) -> None:
        self.name = name
        self._operator = operator = getattr(torch.ops.mpkernels, name).default
        self._differentiable, self._definition = differentiable, definition

        def kernel(keyset: Any, *arguments: Any) -> Any:
            if not SHORT_WAY or transforms_are_active() or _have_tangents(arguments):
                return definition(*arguments)
            if torch.is_grad_enabled() and any_requires_grad(*arguments):
                return differentiable(*arguments)
            with below_autograd():
                return operator.redispatch(keyset & after_autograd, *arguments)

        library.impl(name, kernel, "Autograd", with_keyset=True)
        for key in ("FuncTorchBatched", "Batched"):  # of torch.func, and of torch.autograd
            library.impl(name, definition, key)

    def __call__(self, *arguments: Any) -> Any:
        """Calls it so that whatever may want to see the call does."""
        if torch.compiler.is_compiling():
            return self._operator(*arguments)
        if transforms_are_active():
            # One reverse mode must meet the autograd.Function before the dispatcher.
            alone = only_reverse_mode() and not dual_level_is_open()
            return (self._differentiable if alone else self._definition)(*arguments)
        return (self._definition if gradients_are_batched() else self._operator)(*arguments)

    def route(self, tensors: Sequence[Any]) -> Callable[..., Any]:
        """How to call it with arguments that hold these tensors."""
        return self.direct if nothing_above(tensors) else self

    def direct(self, *arguments: Any) -> Any:
        """Calls it where `nothing_above` holds."""
        if torch.is_grad_enabled() and any_requires_grad(*arguments):
            return self._differentiable(*arguments)
        with below_autograd():
            return self._operator(*arguments)


def applier(function: Any) -> Callable[..., Any]:
    """`function.apply` at a third of its cost.

    Skips what `Function.apply` does on every call: inspecting forward's signature and importing a
    module to call `setup_context`. Only torch.func's transforms need that one.
    """
    compute, set_up, derive = function.forward, function.setup_context, function.backward

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        set_up(ctx, inputs, output)
        if (backend := active_backend()) != "auto":
            ctx.backend = backend

    def forward(ctx: Any, *arguments: Any) -> Any:
        with below_autograd():
            outputs = compute(*arguments)
        remember(ctx, arguments, outputs)
        return outputs

    def backward(ctx: Any, *grads: Any) -> Any:
        # In whichever thread and context: the backend of the forward.
        if (backend := getattr(ctx, "backend", "auto")) == active_backend():
            return derive(ctx, *grads)
        with thread_runs(backend):
            return derive(ctx, *grads)

    def subclass(**members: Callable[..., Any]) -> Any:
        static = {name: staticmethod(member) for name, member in members.items()}
        return type(function.__name__, (torch.autograd.Function,), static)

    public = subclass(forward=compute, setup_context=remember, backward=backward)
    if not SHORT_WAY or unwrap_dead_wrappers is None:
        return public.apply  # type: ignore[no-any-return]
    combined = subclass(forward=forward, backward=backward)
    record = super(torch.autograd.Function, combined).apply  # type: ignore[misc]

    def apply(*arguments: Any) -> Any:
        if transforms_are_active():
            return public.apply(*arguments)
        return record(*unwrap_dead_wrappers(arguments))

    return apply


def place(grads: list[Tensor], wanted: list[bool]) -> list[Tensor | None]:
    """The gradients at the places where they were wanted, None elsewhere."""
    if len(grads) == len(wanted):
        return [*grads]
    remaining = iter(grads)
    return [next(remaining) if w else None for w in wanted]
