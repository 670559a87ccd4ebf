"""mix: fake kernel, eager kernel and gradient (paper Eq. 5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.eager import gradients
from mpkernels.eager.functional import without_autocast
from mpkernels.ops.autograd import Operator, applier, place
from mpkernels.ops.check import check_mix
from mpkernels.ops.differentiate import pull_back
from mpkernels.ops.layout import empty_map, in_format_of

_op = torch.ops.mpkernels.mix.default
_backward_op = torch.ops.mpkernels.mix_backward.default


def fake(xs: list[Tensor], gates: Tensor) -> list[Tensor]:
    """Outputs without values."""
    return [empty_map(xs[0]) for _ in range(gates.shape[2])]


def fake_backward(
    grad_ys: list[Tensor | None], xs: list[Tensor], gates: Tensor, wanted: list[bool]
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients without values."""
    grad_xs = [empty_map(x) for x, w in zip(xs, wanted) if w]
    return grad_xs, [gates.new_empty(gates.shape)] if wanted[-1] else []


def run_eager(xs: list[Tensor], gates: Tensor) -> list[Tensor]:
    """The operator by its definition."""
    check_mix("mix", xs, gates)
    with without_autocast(gates.device.type):
        return [in_format_of(y, xs[0]) for y in eager.mix(xs, gates)]


def run_eager_backward(
    grad_ys: list[Tensor | None], xs: list[Tensor], gates: Tensor, wanted: list[bool]
) -> tuple[list[Tensor], list[Tensor]]:
    """The operator's gradient by its definition."""
    with without_autocast(gates.device.type):
        found = gradients.mix(grad_ys, xs, gates, wanted)
    count = sum(wanted[:-1])
    chosen = [x for x, w in zip(xs, wanted) if w]
    grad_xs = [in_format_of(grad, x) for grad, x in zip(found[:count], chosen)]
    return grad_xs, [grad.contiguous() for grad in found[count:]]


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(*flat: Tensor) -> tuple[Tensor, ...]:
        *xs, gates = flat
        return tuple(_op(xs, gates))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_ys: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        *xs, gates = saved
        wanted = list(ctx.needs_input_grad)
        backward = mix_backward.route((*grad_ys, *saved))
        grad_xs, grad_gates = backward(list(grad_ys), xs, gates, wanted)
        return tuple(place(grad_xs + grad_gates, wanted))


class _MixBackward(torch.autograd.Function):
    """The gradient, differentiable: through its definition."""

    @staticmethod
    def forward(wanted: list[bool], n: int, *flat: Any) -> tuple[Tensor, ...]:
        grad_ys, (*xs, gates) = list(flat[:n]), flat[n:]
        grad_xs, grad_gates = _backward_op(grad_ys, xs, gates, wanted)
        return (*grad_xs, *grad_gates)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.wanted, ctx.n, *flat = inputs
        ctx.save_for_backward(*flat)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        def first(flat: list[Any]) -> list[Tensor]:
            grad_ys, (*xs, gates) = flat[: ctx.n], flat[ctx.n :]
            grad_xs, grad_gates = run_eager_backward(grad_ys, xs, gates, ctx.wanted)
            return grad_xs + grad_gates

        return (None, None, *pull_back(first, ctx.saved_tensors, grads))


_apply, _apply_backward = applier(_Mix), applier(_MixBackward)


def _differentiable(xs: list[Tensor], gates: Tensor) -> Any:
    return list(_apply(*xs, gates))


def _differentiable_backward(
    grad_ys: list[Tensor | None], xs: list[Tensor], gates: Tensor, wanted: list[bool]
) -> Any:
    flat = _apply_backward(wanted, len(grad_ys), *grad_ys, *xs, gates)
    count = sum(wanted[:-1])
    return list(flat[:count]), list(flat[count:])


mix = Operator("mix", _differentiable, run_eager)
mix_backward = Operator("mix_backward", _differentiable_backward, run_eager_backward)
