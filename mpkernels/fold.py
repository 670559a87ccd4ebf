"""Batch norms of outputs as one scale and shift per channel, where they are just that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpkernels.eager.cross_prediction import CrossPredict
from mpkernels.eager.functional import accumulate_dtype
from mpkernels.eager.norms import Values, plain_like, values_of, why_not_plain, why_watched

_OF_DIMS = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}


def why_not_folded(router: CrossPredict) -> str | None:
    """Why the batch norms are more than one scale and shift per channel here, or None.

    Only what is exactly PyTorch's batch norm, and what nothing watches, is folded: then the router
    computes what its norms, called one by one, compute.
    """
    return _why_not_folded(router, [values_of(norm) for norm in router.norms])


def _why_not_folded(router: CrossPredict, values: Sequence[Values]) -> str | None:
    if len(values) != router.outputs:
        return f"there are {len(values)} norms for {router.outputs} outputs"
    weight = router.weight
    wanted = plain_like(weight, weight.shape[1] // router.outputs)
    fits = _OF_DIMS[weight.dim() - 1], nn.SyncBatchNorm
    kinds = set()
    for j, (norm, own) in enumerate(zip(router.norms, values)):
        if reason := why_watched(norm):
            return f"norms[{j}] {reason}"
        if not isinstance(norm, fits):
            return f"norms[{j}] is a {type(norm).__name__}"
        if norm.training or own.mean is None or own.variance is None:
            return f"norms[{j}] depends on the batch (eval mode with running statistics does not)"
        if reason := why_not_plain(norm, own, wanted):
            return f"norms[{j}] {reason}"
        if own.mean.requires_grad or own.variance.requires_grad:
            return f"norms[{j}] has statistics that require a gradient"
        if type(norm.eps) is not float or not norm.eps > 0:
            return f"norms[{j}] has eps = {norm.eps!r}"
        kinds.add((norm.eps, own.weight is None, own.bias is None))
    return "the norms differ in eps or affine" if len(kinds) > 1 else None


def _stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    """One value of every norm, or None where they have none."""
    there = [row for row in rows if row is not None]
    if not there:
        return None
    stack = torch.stack(there)
    return stack.to(accumulate_dtype(stack.dtype))


def fold(router: CrossPredict) -> tuple[Tensor, Tensor] | None:
    """scale, shift [n, C'] that equal the batch norms, or None where they are more."""
    values = [values_of(norm) for norm in router.norms]
    if _why_not_folded(router, values) is not None:
        return None
    mean, variance, weight, bias = (_stacked(rows) for rows in zip(*values))
    assert mean is not None and variance is not None
    eps: float = router.norms[0].eps  # type: ignore[assignment]
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias
