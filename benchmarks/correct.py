"""Whether a contender may be timed: its numbers are about as near to float64 as plain PyTorch's.

The derived bounds are the tests'. They hold for kernels that accumulate in float32, which eager
bfloat16 code does not, so that a comparison of both needs a bound that both can meet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    """The largest error of each tensor as a share of its largest element."""
    return [
        float((f.double() - e).abs().max() / (e.abs().max() or 1.0)) for f, e in zip(found, exact)
    ]


def is_near(found: list[Tensor], exact: list[Tensor], plain: list[Tensor], slack: float) -> bool:
    """Whether no tensor is further off than 4 times plain PyTorch's, and `slack`.

    Args:
        found: the contender's results.
        exact: the same in float64.
        plain: the same by plain PyTorch in the contender's dtype.
        slack: of the largest element, for what plain PyTorch has right by luck.
    """
    return all(a <= 4 * b + slack for a, b in zip(_errors(found, exact), _errors(plain, exact)))


def slack(dtype: torch.dtype, terms: int) -> float:
    """For sums of so many products: a few roundings to the dtype, and the drift of the sum.

    Rounding errors of a running sum in float32 add up like steps of a random walk. PyTorch's own
    sums are cascades, which hardly drift.
    """
    return 8 * torch.finfo(dtype).eps + math.sqrt(terms) * torch.finfo(torch.float32).eps
