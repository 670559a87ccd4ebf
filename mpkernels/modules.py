"""Routers as modules, fused; parameters as in `mpkernels.eager`: state dicts load both ways."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mpkernels import eager, functional
from mpkernels.eager.cross_prediction import CrossPredict
from mpkernels.eager.functional import follow_autocast, kind_of
from mpkernels.eager.modules import Gated
from mpkernels.eager.router import Routed
from mpkernels.fold import fold
from mpkernels.ops.cross_connect import cross_connect
from mpkernels.ops.distributed import is_distributed, run_locally
from mpkernels.ops.gate import gate


def _own(router: nn.Module, *names: str) -> list[Any]:
    """Parameters by name, in a tenth of the time that nn.Module's own lookup takes."""
    own: dict[str, Any] = router._parameters
    try:
        return [own[name] for name in names]
    except KeyError:  # a parameter that was replaced (parametrized, pruned)
        return [getattr(router, name) for name in names]


class CrossConnect(eager.CrossConnect):
    __doc__ = eager.CrossConnect.__doc__

    def _route(self, xs: list[Tensor]) -> Routed:
        try:
            own = tuple(_own(self, "w1", "b1", "w2", "b2"))
            *ys, gates, pooled = cross_connect(xs, own, kind_of("cross_connect", self.kind))
        except (TypeError, ValueError):
            self._check_paths(xs)  # says it in the router's terms
            raise
        return tuple(ys), gates, pooled

    def _own_gates(self, xs: list[Tensor]) -> Tensor:
        return _gated(self, xs)[0]

    def _route_by(self, xs: list[Tensor], gates: Tensor) -> tuple[Tensor, ...]:
        return functional.mix(xs, gates)


class CrossStitch(eager.CrossStitch):
    __doc__ = eager.CrossStitch.__doc__

    def _route(self, xs: list[Tensor]) -> Routed:
        try:
            gates = self.gates(xs[0].shape[0])
            return functional.mix(xs, gates), gates, None
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            self._check_paths(xs)  # says it in the router's terms
            raise

    def _route_by(self, xs: list[Tensor], gates: Tensor) -> tuple[Tensor, ...]:
        return functional.mix(xs, gates)


def _gated(router: Gated, xs: list[Tensor]) -> list[Tensor]:
    """Gates, and the pooled inputs [B, m, C]."""
    return gate(xs, tuple(_own(router, "w1", "b1", "w2", "b2")), kind_of("gate", router.kind))


class _Weighting(CrossPredict):
    """Weights predictions by one operator, which folds batch norms where it can."""

    def _weighted(self, us: list[Tensor], gates: Tensor) -> tuple[Tensor, ...]:
        if not self.norms:
            return functional.combine(us, gates, self.bias, self.relu)
        if (folded := fold(self)) is not None:
            return functional.combine(us, gates, self.bias, self.relu, *folded)
        return self._normalise(functional.combine(us, gates, self.bias, False))

    def _own_gates(self, xs: list[Tensor]) -> Tensor:
        return _gated(self, xs)[0]


class CrossPredictConv2d(_Weighting, eager.CrossPredictConv2d):
    __doc__ = eager.CrossPredictConv2d.__doc__

    def _predict(self, x: Tensor, weight: Tensor) -> Tensor:
        predict = super()._predict
        if not is_distributed((x, weight)):
            return predict(x, weight)
        # PyTorch's own convolution of DTensors has wrong gradients in torch 2.11.
        names = "xs", "weight"
        return run_locally("conv2d", names, (x, weight), lambda both: [predict(*both)])[0]

    def _route(self, xs: list[Tensor]) -> Routed:
        self._check_paths(xs)
        xs = follow_autocast(xs)
        gates, pooled = _gated(self, xs)
        return self._weighted(self._predictions(xs), gates), gates, pooled


class CrossPredictLinear(_Weighting, eager.CrossPredictLinear):
    __doc__ = eager.CrossPredictLinear.__doc__

    def _route(self, xs: list[Tensor]) -> Routed:
        weight, bias, w1, b1, w2, b2 = _own(self, "weight", "bias", "w1", "b1", "w2", "b2")

        def sums(relu: bool, *folded: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            return functional.cross_predict(xs, weight, bias, w1, b1, w2, b2, relu, *folded)

        try:
            if not self.norms:
                return *sums(self.relu), None
            if (folded := fold(self)) is not None:
                return *sums(self.relu, *folded), None
            ys, gates = sums(False)
            return self._normalise(ys), gates, None
        except (TypeError, ValueError):
            self._check_paths(xs)  # says it in the router's terms
            raise
