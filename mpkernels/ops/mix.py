"""mix: Y_j = sum_i g_ij X_i with given gates (paper Eq. 5)."""

from __future__ import annotations

from torch import Tensor

from mpkernels import eager
from mpkernels.eager import gradients
from mpkernels.ops.check import check_mix
from mpkernels.ops.layout import empty_map
from mpkernels.ops.operator import Routed


def _definition(xs: list[Tensor], gates: Tensor) -> list[Tensor]:
    return [*eager.mix(xs, gates)]


def _fake(xs: list[Tensor], gates: Tensor) -> list[Tensor]:
    return [empty_map(xs[0]) for _ in range(gates.shape[2])]


mix = Routed("mix", _definition, gradients.mix, _fake, check_mix)
