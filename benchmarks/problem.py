"""One router's tensors, and the fused operators called without autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import baselines
from benchmarks.cases import DTYPES, Case
from benchmarks.measure import Step
from benchmarks.workload import Workload, map_like
from mpkernels.eager.functional import SOFTMAX
from mpkernels.ops.flags import mask_of

HIDDEN = 16


def parameters(case: Case) -> tuple[Tensor, ...]:
    """w1, b1, w2, b2, with hidden units clearly on or off and no gate near 0 or 1.

    Where rounding decides whether a ReLU is on, gradients of right contenders differ.
    """
    m, n, c = case.inputs, case.outputs, case.channels
    w1 = torch.randn(m, HIDDEN, c) / (2 * c**0.5)
    b1 = 4 * torch.randn(m, HIDDEN).sign()
    return w1, b1, torch.randn(m, n, HIDDEN) / HIDDEN, torch.randn(m, n) / 4


class Problem(Workload):
    """A router.

    Parameters have the maps' dtype unless `parameter_dtype` names one: under autocast they stay
    float32.
    """

    def __init__(
        self, case: Case, device: str = "cpu", parameter_dtype: torch.dtype | None = None
    ) -> None:
        dtype = parameter_dtype or DTYPES[case.dtype]
        super().__init__(
            case,
            [map_like(case, device) for _ in range(case.inputs)],
            [p.to(device, dtype) for p in parameters(case)],
            [map_like(case, device) for _ in range(case.outputs)],
            baselines.loops,
        )

    def operator_forward(self) -> Step:
        """The fused operator alone, without autograd and without the function's checks."""

        def step() -> object:
            with torch.no_grad():
                return torch.ops.mpkernels.cross_connect(self.plain, self.fixed, SOFTMAX)

        return step

    def operator_both(self) -> Step:
        """The forward operator, then the backward operator."""

        def step() -> object:
            with torch.no_grad():
                results = torch.ops.mpkernels.cross_connect(self.plain, self.fixed, SOFTMAX)
                return results, self._backward(results[-2:])

        return step

    def _backward(self, kept: list[Tensor]) -> object:
        every = mask_of((True,) * (len(self.plain) + len(self.fixed)))
        return torch.ops.mpkernels.cross_connect_backward(
            [*self.grads, None], kept, self.plain, self.fixed, SOFTMAX, every
        )
