"""gate: fake kernel, eager kernel and gradient (paper Eq. 1 to 3)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.eager import gradients
from mpkernels.eager.functional import accumulate_dtype, without_autocast
from mpkernels.ops.autograd import Operator, applier, place
from mpkernels.ops.check import check_gate
from mpkernels.ops.differentiate import pull_back
from mpkernels.ops.layout import copied, empty_parameters, is_channels_last

_op = torch.ops.mpkernels.gate.default
_backward_op = torch.ops.mpkernels.gate_backward.default


def fake(
    xs: list[Tensor], w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs without values."""
    batch, channels = xs[0].shape[:2]
    dtype = accumulate_dtype(xs[0].dtype)
    gates = xs[0].new_empty((batch, len(xs), w2.shape[1]), dtype=dtype)
    return gates, xs[0].new_empty((batch, len(xs), channels), dtype=dtype)


def fake_backward(
    grad_gates: Tensor,
    gates: Tensor,
    pooled: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    wanted: list[bool],
) -> tuple[Tensor, list[Tensor]]:
    """Gradients without values."""
    return pooled.new_empty(pooled.shape), empty_parameters((w1, b1, w2, b2), wanted)


def run_eager(
    xs: list[Tensor], w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The operator by its definition."""
    check_gate("gate", xs, w1, b1, w2, b2)
    with without_autocast(xs[0].device.type):
        gates = eager.gate(xs, w1, b1, w2, b2)
        return gates, torch.stack([eager.pool(x) for x in xs], 1)


def run_eager_backward(
    grad_gates: Tensor,
    gates: Tensor,
    pooled: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    wanted: list[bool],
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the pooled values and of the wanted parameters, by the definition."""
    with without_autocast(pooled.device.type):
        grad_pooled, found = gradients.gate(grad_gates, pooled, w1, b1, w2, b2, wanted)
    return grad_pooled.contiguous(), [grad.contiguous() for grad in found]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(*flat: Any) -> tuple[Tensor, Tensor]:
        *xs, w1, b1, w2, b2 = flat
        gates, pooled = _op(xs, w1, b1, w2, b2)
        return gates, pooled

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *xs, w1, b1, w2, b2 = inputs
        ctx.save_for_backward(*output, w1, b1, w2, b2)
        ctx.shape, ctx.dtype = xs[0].shape, xs[0].dtype
        ctx.channels_last = [is_channels_last(x) for x in xs]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, grad_gates: Tensor | None, grad_pooled: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        paths = len(ctx.channels_last)
        of_xs, of_parameters = ctx.needs_input_grad[:paths], ctx.needs_input_grad[paths:]
        grad_z = grad_pooled
        grad_parameters: list[Tensor | None] = [None] * len(of_parameters)
        if grad_gates is not None:
            grad_z, found = gate_backward.route((grad_gates, *saved))(
                grad_gates, *saved, list(of_parameters)
            )
            grad_z = grad_z if grad_pooled is None else grad_z + grad_pooled
            grad_parameters = place(found, list(of_parameters))
        if grad_z is None:
            return (None,) * len(ctx.needs_input_grad)
        # Every position of a channel has the same gradient. It is written to a map: a hook of the
        # user may work in place on it.
        per_position = (grad_z / math.prod(ctx.shape[2:])).to(ctx.dtype)
        for _ in ctx.shape[2:]:
            per_position = per_position.unsqueeze(-1)
        grad_xs = [
            copied(per_position[:, i].expand(ctx.shape), last) if w else None
            for i, (w, last) in enumerate(zip(of_xs, ctx.channels_last))
        ]
        return (*grad_xs, *grad_parameters)


class _GateBackward(torch.autograd.Function):
    """The gradient, differentiable: through its definition."""

    @staticmethod
    def forward(wanted: list[bool], *flat: Any) -> tuple[Tensor, ...]:
        grad_pooled, grad_parameters = _backward_op(*flat, wanted)
        return (grad_pooled, *grad_parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.wanted, grad_gates, _, *rest = inputs
        ctx.save_for_backward(grad_gates, *rest)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        def first(flat: list[Any]) -> list[Tensor]:
            grad_gates, pooled, w1, b1, w2, b2 = flat
            unused = pooled  # gates follow from the pooled values
            grad_pooled, grad_parameters = run_eager_backward(
                grad_gates, unused, pooled, w1, b1, w2, b2, ctx.wanted
            )
            return [grad_pooled, *grad_parameters]

        of_gates, *of_inputs = pull_back(first, ctx.saved_tensors, grads)
        return (None, of_gates, None, *of_inputs)


_apply, _apply_backward = applier(_Gate), applier(_GateBackward)


def _differentiable(xs: list[Tensor], *parameters: Any) -> Any:
    return _apply(*xs, *parameters)


def _differentiable_backward(*arguments: Any) -> Any:
    *flat, wanted = arguments
    grad_pooled, *grad_parameters = _apply_backward(wanted, *flat)
    return grad_pooled, grad_parameters


gate = Operator("gate", _differentiable, run_eager)
gate_backward = Operator("gate_backward", _differentiable_backward, run_eager_backward)
