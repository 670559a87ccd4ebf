"""Routers as modules, fused; parameters as in `mpkernels.eager`: state dicts load both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from mpkernels import eager, functional
from mpkernels.eager.cross_prediction import CrossPredict
from mpkernels.eager.functional import accumulate_dtype


def _own(router: nn.Module, *names: str) -> list[Any]:
    """Parameters by name, in a tenth of the time that nn.Module's own lookup takes."""
    own: dict[str, Any] = router._parameters
    try:
        return [own[name] for name in names]
    except KeyError:  # a parameter that was replaced (parametrized, pruned)
        return [getattr(router, name) for name in names]


class CrossConnect(eager.CrossConnect):
    __doc__ = eager.CrossConnect.__doc__

    def _route(self, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        return functional.cross_connect(xs, *_own(self, "w1", "b1", "w2", "b2"))


class CrossStitch(eager.CrossStitch):
    __doc__ = eager.CrossStitch.__doc__

    def _mix(self, xs: list[Tensor], gates: Tensor) -> list[Tensor]:
        return functional.mix(xs, gates)


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def why_not_folded(norms: nn.ModuleList) -> str | None:
    """Why the batch norms are more than a scale and a shift a channel here, or None."""
    kinds = set()
    for j, norm in enumerate(norms):
        if not isinstance(norm, _BATCH_NORMS):
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

    first = cast(nn.BatchNorm2d, norms[0])
    scale = torch.rsqrt(stacked("running_var") + first.eps)
    if not first.affine:
        return scale, -stacked("running_mean") * scale
    scale = scale * stacked("weight")
    return scale, stacked("bias") - stacked("running_mean") * scale


def _normalised(
    router: CrossPredict, sums: Callable[..., tuple[list[Tensor], Tensor]]
) -> tuple[list[Tensor], Tensor]:
    """The route of a cross-prediction router; sums(relu, scale, shift) weights the predictions."""
    if not router.norms:
        return sums(router.relu)
    if (folded := _fold(router.norms)) is not None:
        return sums(router.relu, *folded)
    ys, gates = sums(False)
    return router._normalise(ys), gates


class CrossPredictConv2d(eager.CrossPredictConv2d):
    __doc__ = eager.CrossPredictConv2d.__doc__

    def _route(self, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        gates, us = self._gates_and_predictions(xs, functional.gate)

        def sums(relu: bool, *folded: Tensor) -> tuple[list[Tensor], Tensor]:
            return functional.combine(us, gates, self.bias, relu, *folded), gates

        return _normalised(self, sums)


class CrossPredictLinear(eager.CrossPredictLinear):
    __doc__ = eager.CrossPredictLinear.__doc__

    def _route(self, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        weight, bias, w1, b1, w2, b2 = _own(self, "weight", "bias", "w1", "b1", "w2", "b2")

        def sums(relu: bool, *folded: Tensor) -> tuple[list[Tensor], Tensor]:
            return functional.cross_predict(xs, weight, bias, w1, b1, w2, b2, relu, *folded)

        try:
            return _normalised(self, sums)
        except (TypeError, ValueError):
            self._check_paths(xs)  # says it in the router's terms
            raise
