"""Whether results are about as near to float64 as plain PyTorch's own.

The tests derive a bound for every element. This rule asks less, so that it fits any operator and
any contender of a benchmark, also one that accumulates in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def share_of_bound(
    results: Sequence[Tensor],
    exact: Sequence[Tensor],
    plain: Sequence[Tensor],
    slack: float,
    ulps: float = 0.0,
) -> float:
    """The largest error of any tensor as a share of what `is_near` allows; NaN counts as infinite.

    `ulps`, of the dtype of each result, are allowed on top to each of its elements.
    """
    worst = torch.zeros((), dtype=torch.float64)
    for result, e, p in zip(results, exact, plain, strict=True):
        rounding = ulps * torch.finfo(result.dtype).eps * e.abs()
        error = ((result.double() - e).abs() - rounding).max()
        bound = 4 * (p.double() - e).abs().max() + slack * (e.abs().max() or 1.0)
        worst = worst.maximum(torch.where(error <= 0, 0.0, error / bound).cpu())
    return float(worst.nan_to_num(math.inf))


def is_near(
    results: Sequence[Tensor], exact: Sequence[Tensor], plain: Sequence[Tensor], slack: float
) -> bool:
    """Whether no tensor is further off than 4 times plain PyTorch's, and `slack`.

    Args:
        results: those to be judged.
        exact: the same in float64.
        plain: the same by plain PyTorch.
        slack: of the largest element, for what plain PyTorch has right by luck.
    """
    return share_of_bound(results, exact, plain, slack) <= 1


def slack(dtype: torch.dtype, terms: int) -> float:
    """For sums of so many products: a few roundings to the dtype, and the drift of the sum.

    Rounding errors of a running sum in float32 add up like steps of a random walk. PyTorch's own
    sums are cascades, which hardly drift.
    """
    return 8 * torch.finfo(dtype).eps + math.sqrt(terms) * torch.finfo(torch.float32).eps
