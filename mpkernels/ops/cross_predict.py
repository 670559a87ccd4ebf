"""cross_predict: a whole layer of small vectors as one operator (paper Eq. 2 to 4).

`fuses` decides where it runs instead of its parts: a matrix library computes large products faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.eager import gradients
from mpkernels.eager.arguments import is_dense
from mpkernels.eager.functional import KINDS
from mpkernels.ops import native
from mpkernels.ops.check import check_cross_predict
from mpkernels.ops.gate import Parameters, fake_gates
from mpkernels.ops.operator import Routed

# Beyond this many weights in all, a matrix library's products are faster than this operator.
FUSED_WEIGHTS = 1 << 14


def is_small(x: Tensor, weight: Tensor) -> bool:
    """Whether C++ computes a layer of such vectors and weights faster than its parts."""
    wide = weight.dtype in (torch.float32, torch.float64)
    return x.dim() == 2 and x.dtype == weight.dtype and wide and weight.numel() <= FUSED_WEIGHTS


def fuses(paths: list[Any], weight: Any) -> bool:
    """Whether the operator takes these arguments, which may be anything; it reports bad ones.

    The backend in force plays no part: compiled code must be right under any that it later meets.
    """
    if native.why_no_cpu is not None or not paths:
        return False
    if not all(is_dense(t) and t.is_cpu for t in (*paths, weight)):
        return False
    return not torch.is_autocast_enabled("cpu") and is_small(paths[0], weight)


def _definition(
    xs: list[Tensor], weight: Tensor, affine: Any, gate: Parameters, kind: int, relu: bool
) -> list[Tensor]:
    bias, scale, shift = affine
    rest = relu, scale, shift
    ys, gates = eager.cross_predict(xs, weight, bias, *gate, *rest, kind=KINDS[kind])  # type: ignore[arg-type,call-arg,misc]
    return [*ys, gates, torch.stack([x @ w.T for x, w in zip(xs, weight.unbind())])]


def _fake(
    xs: list[Tensor], weight: Tensor, affine: Any, gate: Parameters, kind: int, relu: bool
) -> list[Tensor]:
    gates, _ = fake_gates(xs, gate, kind)
    x, rows, (batch, m, n) = xs[0], weight.shape[1], gates.shape
    ys = [x.new_empty((batch, rows // n)) for _ in range(n)]
    return [*ys, gates, x.new_empty((m, batch, rows))]


cross_predict = Routed(
    "cross_predict",
    _definition,
    gradients.cross_predict,
    _fake,
    check_cross_predict,
    kept=2,  # gates, predictions
    hidden=1,
)
