"""combine: weights predictions, with biases, a folded batch norm and a ReLU (paper Eq. 4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mpkernels import eager
from mpkernels.eager import gradients
from mpkernels.ops.check import check_combine
from mpkernels.ops.layout import empty_map
from mpkernels.ops.operator import Routed


def _definition(us: list[Tensor], gates: Tensor, affine: Any, relu: bool) -> list[Tensor]:
    bias, scale, shift = affine
    return [*eager.combine(us, gates, bias, relu, scale, shift)]


def _fake(us: list[Tensor], gates: Tensor, affine: Any, relu: bool) -> list[Tensor]:
    outputs = gates.shape[2]
    channels = us[0].shape[1] // outputs
    return [empty_map(us[0], channels=channels) for _ in range(outputs)]


combine = Routed("combine", _definition, gradients.combine, _fake, check_combine)
