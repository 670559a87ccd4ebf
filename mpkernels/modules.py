"""Routers as modules, fused; parameters as in `mpkernels.eager`: state dicts load both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mpkernels import eager, functional
from mpkernels.eager.cross_prediction import CrossPredict
from mpkernels.fold import fold
from mpkernels.ops.distributed import is_distributed, run_locally


def _own(router: nn.Module, *names: str) -> list[Any]:
    """Parameters by name, in a tenth of the time that nn.Module's own lookup takes."""
    own: dict[str, Any] = router._parameters
    try:
        return [own[name] for name in names]
    except KeyError:  # a parameter that was replaced (parametrized, pruned)
        return [getattr(router, name) for name in names]


class CrossConnect(eager.CrossConnect):
    __doc__ = eager.CrossConnect.__doc__

    def _route(self, xs: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        try:
            return functional.cross_connect(xs, *_own(self, "w1", "b1", "w2", "b2"), kind=self.kind)
        except (TypeError, ValueError):
            self._check_paths(xs)  # says it in the router's terms
            raise


class CrossStitch(eager.CrossStitch):
    __doc__ = eager.CrossStitch.__doc__

    def _route(self, xs: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        try:
            gates = self.gates(xs[0].shape[0])
            return functional.mix(xs, gates), gates
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            self._check_paths(xs)  # says it in the router's terms
            raise


def _normalised(
    router: CrossPredict, sums: Callable[..., tuple[tuple[Tensor, ...], Tensor]]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The route of a cross-prediction router; sums(relu, scale, shift) weights the predictions."""
    if not router.norms:
        return sums(router.relu)
    if (folded := fold(router)) is not None:
        return sums(router.relu, *folded)
    ys, gates = sums(False)
    return router._normalise(ys), gates


class CrossPredictConv2d(eager.CrossPredictConv2d):
    __doc__ = eager.CrossPredictConv2d.__doc__

    def _predict(self, x: Tensor, weight: Tensor) -> Tensor:
        predict = super()._predict
        if not is_distributed((x, weight)):
            return predict(x, weight)
        # PyTorch's own convolution of DTensors has wrong gradients in torch 2.11.
        names = "xs", "weight"
        return run_locally("conv2d", names, (x, weight), lambda both: [predict(*both)])[0]

    def _route(self, xs: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        gates, us = self._gates_and_predictions(xs, functional.gate)

        def sums(relu: bool, *folded: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            return functional.combine(us, gates, self.bias, relu, *folded), gates

        return _normalised(self, sums)


class CrossPredictLinear(eager.CrossPredictLinear):
    __doc__ = eager.CrossPredictLinear.__doc__

    def _route(self, xs: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        weight, bias, w1, b1, w2, b2 = _own(self, "weight", "bias", "w1", "b1", "w2", "b2")

        def sums(relu: bool, *folded: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            return functional.cross_predict(xs, weight, bias, w1, b1, w2, b2, relu, *folded)

        try:
            return _normalised(self, sums)
        except (TypeError, ValueError):
            self._check_paths(xs)  # says it in the router's terms
            raise
