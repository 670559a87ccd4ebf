"""gate: gates and pooled values (paper Eq. 1 to 3).

It keeps the pooled values and no maps, so that its backward is one of pooled values; what that
means for the maps is written here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.eager import gradients
from mpkernels.eager.functional import KINDS, accumulate_dtype
from mpkernels.ops.check import check_gate
from mpkernels.ops.flags import flags_of, mask_of
from mpkernels.ops.form import placed
from mpkernels.ops.layout import copied, is_channels_last
from mpkernels.ops.operator import Operator

Parameters = Sequence[Any]  # of a gate: w1, b1, w2, b2, of which b1 and b2 may be None


def _definition(xs: list[Tensor], gate: Parameters, kind: int) -> list[Tensor]:
    return [eager.gate(xs, *gate, kind=KINDS[kind]), torch.stack([eager.pool(x) for x in xs], 1)]


def fake_gates(xs: list[Tensor], gate: Parameters, kind: int) -> list[Tensor]:
    """Gates and pooled values without values."""
    x, (_, _, w2, _) = xs[0], gate
    batch, channels = x.shape[:2]
    dtype = accumulate_dtype(x.dtype)
    gates = x.new_empty((batch, len(xs), w2.shape[1]), dtype=dtype)
    return [gates, x.new_empty((batch, len(xs), channels), dtype=dtype)]


def _gradients(
    grad: Tensor, kept: list[Tensor], gate: Parameters, kind: int, wanted: int
) -> list[Tensor]:
    flags = flags_of(wanted, len(gate))
    grad_pooled, of_parameters = gradients.gate(grad, kept[1], gate, kind, flags)
    return [grad_pooled.contiguous(), *(t.contiguous() for t in of_parameters)]


def _fake_gradients(
    grad: Tensor, kept: list[Tensor], gate: Parameters, kind: int, wanted: int
) -> list[Tensor]:
    flags = flags_of(wanted, len(gate))
    of_parameters = [p.new_empty(p.shape) for p, w in zip(gate, flags) if w and p is not None]
    return [kept[1].new_empty(kept[1].shape), *of_parameters]


class _Gate(Operator):
    backward = Operator("gate_backward", _gradients, _fake_gradients)

    def keep(self, ctx: Any, flat: Sequence[Any], outputs: Sequence[Tensor]) -> None:
        paths = ctx.form[0]
        xs, parameters = flat[:paths], flat[paths:]
        ctx.save_for_backward(*outputs, *parameters)
        ctx.shape, ctx.dtype = xs[0].shape, xs[0].dtype
        ctx.channels_last = [is_channels_last(x) for x in xs]

    def derive(self, ctx: Any, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        gates, pooled, *parameters = ctx.saved_tensors
        flags, paths = ctx.needs_input_grad[1:], len(ctx.channels_last)
        # The paths' flags come last, for who counts: the gradient of pooled values comes anyway.
        wanted = mask_of((*flags[paths:], *flags[:paths]))
        grad_gates, grad_z = grads
        grad_parameters: list[Tensor | None] = [None] * len(parameters)
        if grad_gates is not None:
            (kind,) = ctx.form[2]
            of_pooled, *results = self.backward.run(
                grad_gates, [gates, pooled], parameters, kind, wanted
            )
            grad_z = of_pooled if grad_z is None else of_pooled + grad_z
            grad_parameters = placed(results, wanted, parameters)
        if grad_z is None:
            return [None] * len(flags)
        # Every position of a channel has the same gradient. It is written to a map: a hook of the
        # user may work in place on it.
        per_position = (grad_z / math.prod(ctx.shape[2:])).to(ctx.dtype)
        for _ in ctx.shape[2:]:
            per_position = per_position.unsqueeze(-1)
        grad_xs = [
            copied(per_position[:, i].expand(ctx.shape), last) if flags[i] else None
            for i, last in enumerate(ctx.channels_last)
        ]
        return [*grad_xs, *grad_parameters]


gate = _Gate("gate", _definition, fake_gates, check_gate)
