"""cross_predict as its parts: `gate`, one matrix product per path, and `combine`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpkernels.eager import gradients
from mpkernels.ops.flags import flags_of, mask_of
from mpkernels.triton.combine import combine, combine_backward
from mpkernels.triton.gate import gate as launch_gate
from mpkernels.triton.gate import gate_backward


def cross_predict(
    xs: list[Tensor],
    weight: Tensor,
    affine: Sequence[Tensor | None],
    gate: Sequence[Tensor | None],
    kind: int,
    relu: bool,
) -> list[Tensor]:
    """ys, gates [B, m, n] and predictions [m, B, n C']."""
    gates, _ = launch_gate(xs, gate, kind)
    us = torch.stack([x @ w.T for x, w in zip(xs, weight.unbind())])
    return [*combine(list(us.unbind()), gates, affine, relu), gates, us]


def cross_predict_backward(
    grads: list[Tensor | None],
    kept: list[Tensor],
    xs: list[Tensor],
    weight: Tensor,
    affine: Sequence[Tensor | None],
    gate: Sequence[Tensor | None],
    kind: int,
    relu: bool,
    wanted: int,
) -> list[Tensor]:
    """The equations of eager/gradients.py, by the launches of the parts."""
    gates, us = kept

    def of_combine(grads: Any, us: Any, gates: Any, affine: Any, relu: Any, flags: Any) -> Any:
        return combine_backward(grads, [], us, gates, affine, relu, mask_of(flags))

    def of_gate(grad: Tensor, pooled: Tensor, parameters: Any, flags: Any) -> Any:
        saved = [gates, pooled]
        of_pooled, *rest = gate_backward(grad, saved, parameters, kind, mask_of(flags))
        return of_pooled, rest

    flags = flags_of(wanted, len(xs) + 1 + len(affine) + len(gate))
    predictions, pooled = list(us.unbind()), torch.stack(xs, 1)
    return gradients.of_predictions(
        grads,
        pooled,
        gates,
        predictions,
        xs,
        weight,
        affine,
        gate,
        relu,
        flags,
        of_combine,
        of_gate,
    )
