"""Data-dependent routing, written as its equations.

"End-to-End Data-Dependent Routing in Multi-Path Neural Networks", Tissera et al.,
arXiv 2107.02450. Shapes: B batch, C channels, m input paths, n output paths, K hidden units.
Scores, gates and sums are computed in float32 (float64 for float64 maps) and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import linear

from mpkernels.eager.arguments import AUTOCAST, is_dense

# Kinds of gates, in the order in which operators number them: a softmax over the outputs.
Kind = Literal["softmax"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SOFTMAX = 0

_CAST = (torch.float32, torch.bfloat16, torch.float16)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which maps of `dtype` are pooled, gated and mixed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def follow_autocast(xs: Sequence[Tensor]) -> list[Tensor]:
    """The maps in autocast's dtype where autocast is on for their device; float64 stays.

    So does what is no map, to be refused as what it is.
    """
    device = xs[0].device.type
    if device not in AUTOCAST or not torch.is_autocast_enabled(device):
        return list(xs)
    dtype = torch.get_autocast_dtype(device)
    return [x.to(dtype) if x.dtype in _CAST and is_dense(x) else x for x in xs]


def without_autocast(device: str) -> AbstractContextManager[object]:
    """Autocast off for a type of device, if it has any."""
    if device not in AUTOCAST:
        return nullcontext()
    return torch.autocast(device, enabled=False)


def pool(x: Tensor) -> Tensor:
    """Z = mean of X over its positions (Eq. 1): [B, C, *spatial] -> [B, C]; a vector is itself."""
    x = x.to(accumulate_dtype(x.dtype))
    return x.flatten(2).mean(2) if x.dim() > 2 else x


def kind_of(function: str, name: Kind) -> int:
    """The number of a kind of gates; raises ValueError unless there is one of this name."""
    if name not in KINDS:
        raise ValueError(f"{function}: kind must be one of {', '.join(KINDS)}, got {name!r}")
    return KINDS.index(name)


def gates_of_scores(scores: Tensor, kind: int) -> Tensor:
    """The gates of scores [..., n], by the number of their kind."""
    return scores.softmax(-1)


def scores_of(
    pooled: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
) -> Tensor:
    """W2_i relu(W1_i Z_i + b1_i) + b2_i (Eq. 2), [B, m, n], of pooled paths [B, m, C]."""
    scores = []
    for i, z in enumerate(pooled.unbind(1)):
        hidden = linear(z, w1[i].to(z.dtype), None if b1 is None else b1[i].to(z.dtype)).relu()
        scores.append(linear(hidden, w2[i].to(z.dtype), None if b2 is None else b2[i].to(z.dtype)))
    return torch.stack(scores, 1)


def gate(
    xs: Sequence[Tensor],
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    kind: Kind = "softmax",
) -> Tensor:
    """G_i = softmax_j(W2_i relu(W1_i Z_i + b1_i) + b2_i) (Eq. 1 to 3).

    The softmax runs over the n destinations: every row of G_i sums to 1.

    Args:
        xs: m maps [B, C, *spatial] or vectors [B, C].
        w1: [m, K, C].
        b1: [m, K] or None.
        w2: [m, n, K].
        b2: [m, n] or None.
        kind: of the gates, one of KINDS.

    Returns:
        gates [B, m, n], float32 (float64 for float64 maps).
    """
    xs = follow_autocast(xs)
    with without_autocast(xs[0].device.type):
        pooled = torch.stack([pool(x) for x in xs], 1)
        return gates_of_scores(scores_of(pooled, w1, b1, w2, b2), kind_of("gate", kind))


def mix(xs: Sequence[Tensor], gates: Tensor) -> tuple[Tensor, ...]:
    """Y_j = sum_i g_ij X_i (Eq. 5).

    Args:
        xs: m maps [B, C, *spatial] or vectors [B, C].
        gates: [B, m, n], or [B, m, n, C] for one weight a channel.

    Returns:
        n maps of the shape and dtype of X_i.
    """
    xs = follow_autocast(xs)
    dtype = accumulate_dtype(xs[0].dtype)
    weights = gates.to(dtype) if gates.dim() == 4 else gates.to(dtype).unsqueeze(-1)
    weights = weights[(...,) + (None,) * (xs[0].dim() - 2)]
    wide = [x.to(dtype) for x in xs]  # once, so that gradients too are summed before rounding
    ys = []
    for j in range(gates.shape[2]):
        y = weights[:, 0, j] * wide[0]
        for i in range(1, len(wide)):
            y = y + weights[:, i, j] * wide[i]
        ys.append(y.to(xs[0].dtype))
    return tuple(ys)


def cross_connect(
    xs: Sequence[Tensor],
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    kind: Kind = "softmax",
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Y_j = sum_i g_ij X_i with G = gate(xs) (Eq. 1 to 3 and 5).

    Args:
        xs: m maps [B, C, *spatial] or vectors [B, C].
        w1: [m, K, C].
        b1: [m, K] or None.
        w2: [m, n, K].
        b2: [m, n] or None.
        kind: of the gates, one of KINDS.

    Returns:
        ys, n maps of the shape and dtype of X_i; and gates [B, m, n].
    """
    xs = follow_autocast(xs)
    with without_autocast(xs[0].device.type):
        wide = [x.to(accumulate_dtype(x.dtype)) for x in xs]
        gates = gate(wide, w1, b1, w2, b2, kind=kind)
        return tuple(y.to(xs[0].dtype) for y in mix(wide, gates)), gates


def combine(
    us: Sequence[Tensor],
    gates: Tensor,
    bias: Tensor | None = None,
    relu: bool = True,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Y_j = relu(scale_j sum_i g_ij (U_ij + b_ij) + shift_j) (Eq. 4; scale and shift of a BN_j).

    Args:
        us: m predictions [B, n*C', *spatial] or [B, n*C']; U_ij is the slice [:, j*C':(j+1)*C'].
        gates: [B, m, n].
        bias: [m, n*C'] or None.
        relu: whether the last step is a ReLU.
        scale: [n, C'] or None.
        shift: [n, C'] or None.

    Returns:
        n maps [B, C', *spatial] of the dtype of U_i.
    """
    us = follow_autocast(us)
    dtype = accumulate_dtype(us[0].dtype)
    spatial = (None,) * (us[0].dim() - 2)
    weights = gates.to(dtype)
    predictions = []
    for i, u in enumerate(us):
        wide = u.to(dtype)
        if bias is not None:
            wide = wide + bias[i].to(dtype)[(..., *spatial)]
        predictions.append(wide.tensor_split(gates.shape[2], 1))
    ys = []
    for j in range(gates.shape[2]):
        y = weights[:, 0, j, None][(..., *spatial)] * predictions[0][j]
        for i in range(1, len(us)):
            y = y + weights[:, i, j, None][(..., *spatial)] * predictions[i][j]
        if scale is not None:
            y = scale[j].to(dtype)[(..., *spatial)] * y
        if shift is not None:
            y = y + shift[j].to(dtype)[(..., *spatial)]
        ys.append((y.relu() if relu else y).to(us[0].dtype))
    return tuple(ys)


def cross_predict(
    xs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    relu: bool = True,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    kind: Kind = "softmax",
) -> tuple[tuple[Tensor, ...], Tensor]:
    """combine(us, gate(xs)) with U_i = W_i X_i (Eq. 2 to 4), for vectors.

    Args:
        xs: m vectors [B, C].
        weight: [m, n*C', C] in the dtype of xs, ordered path, output, channel.
        bias, relu, scale, shift: of `combine`.
        w1, b1, w2, b2, kind: of `gate`.

    Returns:
        ys, n vectors [B, C']; and gates [B, m, n].
    """
    gates = gate(xs, w1, b1, w2, b2, kind=kind)
    us = [linear(x, w) for x, w in zip(xs, weight.unbind())]
    return combine(us, gates, bias, relu, scale, shift), gates
