"""cross_connect: fake kernel, eager kernel and gradient (paper Eq. 1 to 3, 5 and 8 to 9)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.eager import gradients
from mpkernels.eager.functional import accumulate_dtype, without_autocast
from mpkernels.ops.autograd import Operator, applier, place
from mpkernels.ops.check import check_gate
from mpkernels.ops.differentiate import pull_back
from mpkernels.ops.layout import empty_map, empty_parameters, in_format_of

Parameters = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
_op = torch.ops.mpkernels.cross_connect.default
_backward_op = torch.ops.mpkernels.cross_connect_backward.default


def fake(
    xs: list[Tensor], w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Outputs without values."""
    batch, channels = xs[0].shape[:2]
    dtype = accumulate_dtype(xs[0].dtype)
    ys = [empty_map(xs[0]) for _ in range(w2.shape[1])]
    gates = xs[0].new_empty((batch, len(xs), w2.shape[1]), dtype=dtype)
    return ys, gates, xs[0].new_empty((batch, len(xs), channels), dtype=dtype)


def fake_backward(
    grad_ys: list[Tensor | None],
    grad_gates: Tensor | None,
    xs: list[Tensor],
    gates: Tensor,
    pooled: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    wanted: list[bool],
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients without values."""
    grad_xs = [empty_map(x) for x, w in zip(xs, wanted) if w]
    return grad_xs, empty_parameters((w1, b1, w2, b2), wanted[len(xs) :])


def run_eager(
    xs: list[Tensor], w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The operator by its definition."""
    check_gate("cross_connect", xs, w1, b1, w2, b2)
    with without_autocast(xs[0].device.type):
        ys, gates = eager.cross_connect(xs, w1, b1, w2, b2)
        pooled = torch.stack([eager.pool(x) for x in xs], 1)
    return [in_format_of(y, xs[0]) for y in ys], gates, pooled


def run_eager_backward(
    grad_ys: list[Tensor | None],
    grad_gates: Tensor | None,
    xs: list[Tensor],
    gates: Tensor,
    pooled: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    wanted: list[bool],
) -> tuple[list[Tensor], list[Tensor]]:
    """The operator's gradient by its definition."""
    # Gates and pooled values are computed again: a further gradient passes through them.
    with without_autocast(xs[0].device.type):
        found = gradients.cross_connect(grad_ys, grad_gates, xs, w1, b1, w2, b2, wanted)
    count = sum(wanted[: len(xs)])
    chosen = [x for x, w in zip(xs, wanted) if w]
    grad_xs = [in_format_of(grad, x) for grad, x in zip(found[:count], chosen)]
    return grad_xs, [grad.contiguous() for grad in found[count:]]


class _CrossConnect(torch.autograd.Function):
    @staticmethod
    def forward(*flat: Any) -> tuple[Tensor, ...]:
        *xs, w1, b1, w2, b2 = flat
        ys, gates, pooled = _op(xs, w1, b1, w2, b2)
        return (*ys, gates, pooled)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *_, gates, pooled = output
        ctx.save_for_backward(*inputs, gates, pooled)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(pooled)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        *xs, w1, b1, w2, b2, gates, pooled = saved
        wanted = list(ctx.needs_input_grad)
        *grad_ys, grad_gates, _ = grads
        grad_xs, grad_parameters = cross_connect_backward.route((*grads, *saved))(
            grad_ys,
            grad_gates,
            xs,
            gates,
            pooled,
            w1,
            b1,
            w2,
            b2,
            wanted,
        )
        return tuple(place(grad_xs + grad_parameters, wanted))


class _CrossConnectBackward(torch.autograd.Function):
    """The gradient, differentiable: through its definition, from which gates and pooled follow."""

    @staticmethod
    def forward(wanted: list[bool], n: int, *flat: Any) -> tuple[Tensor, ...]:
        grad_ys, (grad_gates, gates, pooled, *inputs) = list(flat[:n]), flat[n:]
        *xs, w1, b1, w2, b2 = inputs
        grad_xs, grad_parameters = _backward_op(
            grad_ys, grad_gates, xs, gates, pooled, w1, b1, w2, b2, wanted
        )
        return (*grad_xs, *grad_parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.wanted, ctx.n, *flat = inputs
        grads, (_, _, *rest) = flat[: ctx.n + 1], flat[ctx.n + 1 :]
        ctx.save_for_backward(*grads, *rest)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        def first(flat: list[Any]) -> list[Tensor]:
            grad_ys, (grad_gates, *xs, w1, b1, w2, b2) = flat[: ctx.n], flat[ctx.n :]
            grad_xs, grad_parameters = run_eager_backward(
                grad_ys, grad_gates, xs, w1, w1, w1, b1, w2, b2, ctx.wanted
            )
            return grad_xs + grad_parameters

        found = pull_back(first, ctx.saved_tensors, grads)
        return (None, None, *found[: ctx.n + 1], None, None, *found[ctx.n + 1 :])


_apply, _apply_backward = applier(_CrossConnect), applier(_CrossConnectBackward)


def _differentiable(xs: list[Tensor], *parameters: Any) -> Any:
    *ys, gates, pooled = _apply(*xs, *parameters)
    return ys, gates, pooled


def _differentiable_backward(
    grad_ys: list[Tensor | None],
    grad_gates: Tensor | None,
    xs: list[Tensor],
    gates: Tensor,
    pooled: Tensor,
    *rest: Any,
) -> Any:
    *parameters, wanted = rest
    flat = _apply_backward(
        wanted,
        len(grad_ys),
        *grad_ys,
        grad_gates,
        gates,
        pooled,
        *xs,
        *parameters,
    )
    count = sum(wanted[: len(xs)])
    return list(flat[:count]), list(flat[count:])


cross_connect = Operator("cross_connect", _differentiable, run_eager)
cross_connect_backward = Operator(
    "cross_connect_backward", _differentiable_backward, run_eager_backward
)
