"""Routers as modules, fused; parameters as in `mpkernels.eager`: state dicts load both ways."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mpkernels import eager, functional
from mpkernels.eager.cross_predict import CrossPredict
from mpkernels.eager.functional import accumulate_dtype


class CrossConnect(eager.CrossConnect):
    __doc__ = eager.CrossConnect.__doc__

    def _route(self, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        # nn.Module's own lookup takes half a microsecond a name; a parameter that was replaced
        # (parametrized, pruned) is not in the dictionary.
        own: dict[str, Any] = self._parameters
        try:
            w1, b1, w2, b2 = own["w1"], own["b1"], own["w2"], own["b2"]
        except KeyError:
            w1, b1, w2, b2 = self.w1, self.b1, self.w2, self.b2
        return functional.cross_connect(xs, w1, b1, w2, b2)


class CrossStitch(eager.CrossStitch):
    __doc__ = eager.CrossStitch.__doc__

    def _mix(self, xs: list[Tensor], gates: Tensor) -> list[Tensor]:
        return functional.mix(xs, gates)


def why_not_folded(norms: nn.ModuleList) -> str | None:
    """Why the batch norms are more than a scale and a shift a channel here, or None."""
    kinds = set()
    for j, norm in enumerate(norms):
        if not isinstance(norm, _BatchNorm):
            return f"norms[{j}] is a {type(norm).__name__}"
        if norm.training or norm.running_mean is None:
            return f"norms[{j}] depends on the batch (eval mode with running statistics does not)"
        if norm._forward_hooks or norm._forward_pre_hooks:
            return f"norms[{j}] has hooks to run"
        kinds.add((norm.eps, norm.affine))
    return "the norms differ in eps or affine" if len(kinds) > 1 else None


def _fold(norms: nn.ModuleList) -> tuple[Tensor, Tensor] | None:
    """scale, shift [n, C'] that equal the batch norms, or None where they are more."""
    if why_not_folded(norms) is not None:
        return None

    def stacked(name: str) -> Tensor:
        rows = torch.stack([getattr(norm, name) for norm in norms])
        return rows.to(accumulate_dtype(rows.dtype))

    first = cast(_BatchNorm, norms[0])
    scale = torch.rsqrt(stacked("running_var") + first.eps)
    if not first.affine:
        return scale, -stacked("running_mean") * scale
    scale = scale * stacked("weight")
    return scale, stacked("bias") - stacked("running_mean") * scale


def _cross_predict(router: CrossPredict, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The route of both cross-prediction routers."""
    gates, us = router._gates_and_predictions(xs, functional.gate)
    if not router.norms:
        return functional.combine(us, gates, router.bias, router.relu), gates
    if (folded := _fold(router.norms)) is not None:
        return functional.combine(us, gates, router.bias, router.relu, *folded), gates
    ys = functional.combine(us, gates, router.bias, relu=False)
    return router._normalise(ys), gates


class CrossPredictConv2d(eager.CrossPredictConv2d):
    __doc__ = eager.CrossPredictConv2d.__doc__

    def _route(self, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        return _cross_predict(self, xs)


class CrossPredictLinear(eager.CrossPredictLinear):
    __doc__ = eager.CrossPredictLinear.__doc__

    def _route(self, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        return _cross_predict(self, xs)
