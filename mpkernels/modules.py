"""Routers as modules, fused; parameters as in `mpkernels.eager`: state dicts load both ways."""

from __future__ import annotations

from torch import Tensor

from mpkernels import eager, functional


class CrossConnect(eager.CrossConnect):
    __doc__ = eager.CrossConnect.__doc__

    def _cross_connect(self, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        return functional.cross_connect(xs, self.w1, self.b1, self.w2, self.b2)


class CrossStitch(eager.CrossStitch):
    __doc__ = eager.CrossStitch.__doc__

    def _mix(self, xs: list[Tensor], gates: Tensor) -> list[Tensor]:
        return functional.mix(xs, gates)
