"""cross_connect: pool, gate and mix as one operator (paper Eq. 1 to 3, 5 and 8 to 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.eager import gradients
from mpkernels.eager.functional import KINDS
from mpkernels.ops.check import check_gate
from mpkernels.ops.gate import Parameters, fake_gates
from mpkernels.ops.layout import empty_map
from mpkernels.ops.operator import Routed


def _definition(xs: list[Tensor], gate: Parameters, kind: int) -> list[Tensor]:
    ys, gates = eager.cross_connect(xs, *gate, kind=KINDS[kind])
    return [*ys, gates, torch.stack([eager.pool(x) for x in xs], 1)]


def _fake(xs: list[Tensor], gate: Parameters, kind: int) -> list[Tensor]:
    gates, pooled = fake_gates(xs, gate, kind)
    return [*(empty_map(xs[0]) for _ in range(gates.shape[2])), gates, pooled]


cross_connect = Routed(
    "cross_connect",
    _definition,
    gradients.cross_connect,
    _fake,
    check_gate,
    kept=2,  # gates, pooled
    hidden=1,
)
