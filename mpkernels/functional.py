"""Routers as functions of tensors, fused where a kernel runs (see `mpkernels.explain`)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import linear

from mpkernels.eager.functional import Kind, follow_autocast, kind_of
from mpkernels.ops import backend as backend  # registers the kernels
from mpkernels.ops.check import check_cross_predict, check_flag, check_tensors, paths_of
from mpkernels.ops.combine import combine as _combine
from mpkernels.ops.cross_connect import cross_connect as _cross_connect
from mpkernels.ops.cross_predict import cross_predict as _cross_predict
from mpkernels.ops.cross_predict import fuses
from mpkernels.ops.gate import gate as _gate
from mpkernels.ops.mix import mix as _mix


def cross_connect(
    xs: Tensor | Sequence[Tensor],
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    kind: Kind = "softmax",
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Pools, gates and mixes m paths into n in one operator (paper Eq. 1 to 3 and 5).

    Y_j = sum_i g_ij X_i,  G_i = softmax_j(W2_i relu(W1_i mean(X_i) + b1_i) + b2_i)

    The softmax runs over the n outputs, so sum_j Y_j = sum_i X_i. Under autocast the maps take
    autocast's dtype; gates are computed and returned in float32 (float64 for float64 maps).

    Args:
        xs: m maps [B, C, *spatial] or vectors [B, C], NCHW or channels_last; one tensor is a path.
        w1: [m, K, C], any float dtype, as the other parameters.
        b1: [m, K] or None.
        w2: [m, n, K].
        b2: [m, n] or None.
        kind: of the gates: "softmax".

    Returns:
        ys, n maps like xs[0]; and gates [B, m, n], differentiable too.

    Raises:
        ValueError: a shape or device does not fit; the message names it.
        TypeError: a dtype does not fit, or an argument is not a tensor.

    Example:
        >>> xs = [torch.randn(8, 4, 5, 5) for _ in range(2)]
        >>> w1, w2 = torch.randn(2, 16, 4), torch.randn(2, 3, 16)
        >>> ys, gates = cross_connect(xs, w1, None, w2, None)
        >>> len(ys), tuple(ys[0].shape), tuple(gates.shape)
        (3, (8, 4, 5, 5), (8, 2, 3))
    """
    *ys, gates, _ = _cross_connect(xs, (w1, b1, w2, b2), kind_of("cross_connect", kind))
    return tuple(ys), gates


def gate(
    xs: Tensor | Sequence[Tensor],
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    kind: Kind = "softmax",
) -> Tensor:
    """Pools m paths and computes their gates over n outputs (paper Eq. 1 to 3).

    G_i = softmax_j(W2_i relu(W1_i mean(X_i) + b1_i) + b2_i)

    Arguments and errors are those of `cross_connect`.

    Returns:
        gates [B, m, n], float32 (float64 for float64 maps).

    Example:
        >>> w1, w2 = torch.randn(1, 16, 4), torch.randn(1, 3, 16)
        >>> gates = gate(torch.randn(8, 4), w1, None, w2, None)
        >>> bool(torch.allclose(gates.sum(-1), torch.ones(8, 1)))
        True
    """
    return _gate(xs, (w1, b1, w2, b2), kind_of("gate", kind))[0]


def mix(xs: Tensor | Sequence[Tensor], gates: Tensor) -> tuple[Tensor, ...]:
    """Mixes m paths into n with given gates (paper Eq. 5): Y_j = sum_i g_ij X_i.

    Args:
        xs: m maps [B, C, *spatial] or vectors [B, C]; one tensor is a path.
        gates: [B, m, n], or [B, m, n, C] for one weight per channel; any strides, 0 (expanded) too.

    Returns:
        ys, n maps like xs[0].

    Raises:
        ValueError: a shape or device does not fit; the message names it.
        TypeError: a dtype does not fit, or an argument is not a tensor.

    Example:
        >>> ys = mix([torch.ones(2, 3), torch.ones(2, 3)], torch.full((2, 2, 1), 0.5))
        >>> ys[0].sum().item()
        6.0
    """
    return tuple(_mix(xs, gates))


def combine(
    us: Tensor | Sequence[Tensor],
    gates: Tensor,
    bias: Tensor | None = None,
    relu: bool = True,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Combines the predictions of m paths for n outputs (paper Eq. 4), in one operator.

    Y_j = relu(scale_j sum_i g_ij (U_ij + b_ij) + shift_j)

    A path predicts all n outputs at once, for instance by one convolution with n*C' channels
    without bias: U_ij is the slice [:, j*C':(j+1)*C'] of us[i], read in place. `scale` and `shift`
    are a BatchNorm of each output folded for inference. Under autocast the maps take autocast's
    dtype. Every argument but `relu` is differentiable; the gradient of the ReLU at 0 is 0.

    Args:
        us: m predictions [B, n*C', *spatial] or [B, n*C'], NCHW or channels_last; one tensor is a
            path.
        gates: [B, m, n], any float dtype, as the parameters, and any strides, also 0 (expanded).
        bias: [m, n*C'] or None.
        relu: whether the last step is a ReLU.
        scale: [n, C'] or None.
        shift: [n, C'] or None.

    Returns:
        ys, n maps [B, C', *spatial] in the dtype and memory format of us[0].

    Raises:
        ValueError: a shape or device does not fit; the message names it.
        TypeError: a dtype does not fit, or an argument is not a tensor.

    Example:
        >>> us = [torch.ones(2, 6, 4, 4), torch.ones(2, 6, 4, 4)]
        >>> ys = combine(us, torch.full((2, 2, 3), 0.5), bias=torch.ones(2, 6))
        >>> len(ys), tuple(ys[0].shape), ys[0].max().item()
        (3, (2, 2, 4, 4), 2.0)
    """
    check_flag("combine", "relu", relu)
    return tuple(_combine(us, gates, (bias, scale, shift), relu))


def cross_predict(
    xs: Tensor | Sequence[Tensor],
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
    """A whole layer of cross-predictions of vectors (paper Eq. 2 to 4).

    Y_j = relu(scale_j sum_i g_ij (W_ij X_i + b_ij) + shift_j),
    G_i = softmax_j(W2_i relu(W1_i X_i + b1_i) + b2_i)

    Runs as one operator where the weights are few and C++ is there (mpkernels/ops/cross_predict.py
    has the rule), else as `gate`, one matrix product per path and `combine`.

    Args:
        xs: m vectors [B, C]; one tensor is a path.
        weight: [m, n*C', C] in the dtype of xs (autocast aside), ordered path, output, channel.
        bias: [m, n*C'] or None.
        w1, b1, w2, b2: the gates' parameters, as in `cross_connect`.
        relu: whether the last step is a ReLU.
        scale, shift: [n, C'] or None, as in `combine`.
        kind: of the gates, as in `cross_connect`.

    Returns:
        ys, n vectors [B, C']; and gates [B, m, n], differentiable too.

    Raises:
        ValueError: a shape or device does not fit; the message names it.
        TypeError: a dtype does not fit, or an argument is not a tensor.

    Example:
        >>> xs = [torch.randn(8, 4) for _ in range(2)]
        >>> w1, w2 = torch.randn(2, 16, 4), torch.randn(2, 3, 16)
        >>> ys, gates = cross_predict(xs, torch.randn(2, 3 * 5, 4), None, w1, None, w2, None)
        >>> len(ys), tuple(ys[0].shape), tuple(gates.shape)
        (3, (8, 5), (8, 2, 3))
    """
    check_flag("cross_predict", "relu", relu)
    paths = paths_of("cross_predict", "xs", xs)
    number = kind_of("cross_predict", kind)
    rest = (weight, (bias, scale, shift), (w1, b1, w2, b2), number, relu)
    if fuses(paths, weight):
        *ys, gates, _ = _cross_predict(paths, *rest)
        return tuple(ys), gates
    check_tensors("cross_predict", "xs", paths)
    paths = follow_autocast(paths)
    check_cross_predict("cross_predict", paths, *rest)
    gates = gate(paths, w1, b1, w2, b2, kind=kind)
    us = [linear(x, w) for x, w in zip(paths, weight.unbind())]
    return combine(us, gates, bias, relu, scale, shift), gates
