"""Batch norms of a router's outputs as a scale and a shift a channel, where they are just that."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mpkernels.eager.cross_prediction import CrossPredict
from mpkernels.eager.functional import accumulate_dtype
from mpkernels.eager.norms import value_of, why_not_plain, why_watched

_STATISTICS = ("running_mean", "running_var")
_AFFINE = ("weight", "bias")
_OF_DIMS = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}


def why_not_folded(router: CrossPredict) -> str | None:
    """Why the batch norms are more than a scale and a shift a channel here, or None.

    Only what is exactly PyTorch's batch norm, and what nothing watches, is folded: then the router
    computes what its norms, called one by one, compute.
    """
    norms, like = router.norms, router.weight
    if len(norms) != router.outputs:
        return f"there are {len(norms)} norms for {router.outputs} outputs"
    size = like.shape[1] // router.outputs
    fits = _OF_DIMS[like.dim() - 1], nn.SyncBatchNorm
    kinds = set()
    for j, norm in enumerate(norms):
        if reason := why_watched(norm):
            return f"norms[{j}] {reason}"
        if not isinstance(norm, fits):
            return f"norms[{j}] is a {type(norm).__name__}"
        if norm.training or any(value_of(norm, name) is None for name in _STATISTICS):
            return f"norms[{j}] depends on the batch (eval mode with running statistics does not)"
        for name in (*_STATISTICS, *_AFFINE):
            if reason := why_not_plain(norm, name, like, size):
                return f"norms[{j}] {reason}"
        if any(cast(Tensor, value_of(norm, name)).requires_grad for name in _STATISTICS):
            return f"norms[{j}] has statistics that require a gradient"
        if type(norm.eps) is not float or not norm.eps > 0:
            return f"norms[{j}] has eps = {norm.eps!r}"
        kinds.add((norm.eps, *(value_of(norm, name) is None for name in _AFFINE)))
    return "the norms differ in eps or affine" if len(kinds) > 1 else None


def fold(router: CrossPredict) -> tuple[Tensor, Tensor] | None:
    """scale, shift [n, C'] that equal the batch norms, or None where they are more."""
    if why_not_folded(router) is not None:
        return None
    norms = list(router.norms)

    def stacked(name: str) -> Tensor | None:
        if value_of(norms[0], name) is None:
            return None
        rows = torch.stack([cast(Tensor, value_of(norm, name)) for norm in norms])
        return rows.to(accumulate_dtype(rows.dtype))

    mean, variance = stacked("running_mean"), stacked("running_var")
    weight, bias = stacked("weight"), stacked("bias")
    assert mean is not None and variance is not None
    scale = torch.rsqrt(variance + cast(_BatchNorm, norms[0]).eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias
