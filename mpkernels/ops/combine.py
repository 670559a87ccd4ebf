"""combine: fake kernel, eager kernel and gradient (paper Eq. 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.eager import gradients
from mpkernels.eager.functional import without_autocast
from mpkernels.ops.autograd import Operator, applier, place
from mpkernels.ops.check import check_combine
from mpkernels.ops.differentiate import pull_back
from mpkernels.ops.layout import empty_map, empty_parameters, in_format_of

_op = torch.ops.mpkernels.combine.default
_backward_op = torch.ops.mpkernels.combine_backward.default


def fake(
    us: list[Tensor],
    gates: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> list[Tensor]:
    """Outputs without values."""
    outputs = gates.shape[2]
    channels = us[0].shape[1] // outputs
    return [empty_map(us[0], channels=channels) for _ in range(outputs)]


def fake_backward(
    grad_ys: list[Tensor | None],
    us: list[Tensor],
    gates: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    wanted: list[bool],
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients without values."""
    grad_us = [empty_map(u) for u, w in zip(us, wanted) if w]
    return grad_us, empty_parameters((gates, bias, scale, shift), wanted[len(us) :])


def run_eager(
    us: list[Tensor],
    gates: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> list[Tensor]:
    """The operator by its definition."""
    check_combine("combine", us, gates, bias, scale, shift)
    with without_autocast(gates.device.type):
        ys = eager.combine(us, gates, bias, relu, scale, shift)
    return [in_format_of(y, us[0]) for y in ys]


def run_eager_backward(
    grad_ys: list[Tensor | None],
    us: list[Tensor],
    gates: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    wanted: list[bool],
) -> tuple[list[Tensor], list[Tensor]]:
    """The operator's gradient by its definition."""
    with without_autocast(gates.device.type):
        found = gradients.combine(grad_ys, us, gates, bias, scale, shift, relu, wanted)
    count = sum(wanted[: len(us)])
    chosen = [u for u, w in zip(us, wanted) if w]
    grad_us = [in_format_of(grad, u) for grad, u in zip(found[:count], chosen)]
    return grad_us, [grad.contiguous() for grad in found[count:]]


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(relu: bool, *flat: Any) -> tuple[Tensor, ...]:
        *us, gates, bias, scale, shift = flat
        return tuple(_op(us, gates, bias, scale, shift, relu))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.relu, *flat = inputs
        ctx.save_for_backward(*flat)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_ys: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        *us, gates, bias, scale, shift = saved
        wanted = list(ctx.needs_input_grad[1:])
        backward = combine_backward.route((*grad_ys, *saved))
        grad_us, grad_parameters = backward(
            list(grad_ys), us, gates, bias, scale, shift, ctx.relu, wanted
        )
        return (None, *place(grad_us + grad_parameters, wanted))


class _CombineBackward(torch.autograd.Function):
    """The gradient, differentiable: through its definition."""

    @staticmethod
    def forward(relu: bool, wanted: list[bool], n: int, *flat: Any) -> tuple[Tensor, ...]:
        grad_ys, (*us, gates, bias, scale, shift) = list(flat[:n]), flat[n:]
        grad_us, grad_parameters = _backward_op(
            grad_ys, us, gates, bias, scale, shift, relu, wanted
        )
        return (*grad_us, *grad_parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.relu, ctx.wanted, ctx.n, *flat = inputs
        ctx.save_for_backward(*flat)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        def first(flat: list[Any]) -> list[Tensor]:
            grad_ys, (*us, gates, bias, scale, shift) = flat[: ctx.n], flat[ctx.n :]
            grad_us, grad_parameters = run_eager_backward(
                grad_ys, us, gates, bias, scale, shift, ctx.relu, ctx.wanted
            )
            return grad_us + grad_parameters

        return (None, None, None, *pull_back(first, ctx.saved_tensors, grads))


_apply, _apply_backward = applier(_Combine), applier(_CombineBackward)


def _differentiable(us: list[Tensor], *rest: Any) -> Any:
    *parameters, relu = rest
    return list(_apply(relu, *us, *parameters))


def _differentiable_backward(grad_ys: list[Tensor | None], us: list[Tensor], *rest: Any) -> Any:
    *parameters, relu, wanted = rest
    flat = _apply_backward(relu, wanted, len(grad_ys), *grad_ys, *us, *parameters)
    count = sum(wanted[: len(us)])
    return list(flat[:count]), list(flat[count:])


combine = Operator("combine", _differentiable, run_eager)
combine_backward = Operator("combine_backward", _differentiable_backward, run_eager_backward)
