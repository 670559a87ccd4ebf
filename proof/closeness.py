"""The one comparison of the tests: element by element against float64, within a derived bound.

Inputs are taken as exact. By first-order rounding error analysis, if each of N products passes
through at most n roundings in a dtype of unit roundoff a, their sum is off by at most
n a / (1 - n a) times the sum of the magnitudes. No kernel adds more than 512 terms to an
accumulator before its sum goes to the next level, which bounds n. Errors of intermediate values
are propagated through the formulas, and the final rounding to the result's dtype adds half an ulp.

That bound is certain, but far above the errors that occur. A second, statistical bound is tighter:
n roundings add up like a random walk, so the errors of a whole tensor have a root mean square of
about sqrt(n) a.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from proof.where import INTERPRETED

ROUNDOFF = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
# The oracle computes in float64 as well, so a float64 result may differ by twice the bound.
ORACLE = {torch.float64: 2.0}


def exact(t: Tensor | None) -> Tensor | None:
    """The same values in float64, detached, on the CPU, where the oracle is computed."""
    return None if t is None else t.detach().to("cpu", torch.float64)


def rounded(value: Tensor, error: Tensor, dtype: torch.dtype, accumulate: torch.dtype) -> Tensor:
    """The bound after the store, which adds half an ulp of the result's dtype."""
    u = ROUNDOFF[dtype] if dtype != accumulate else 0.0
    if INTERPRETED and dtype == torch.bfloat16:
        u *= 2  # the interpreter's cast to bf16 truncates
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return (error * (1 + u) + u * value.abs() + smallest) * ORACLE.get(accumulate, 1.0)


LEVEL = 512  # most terms that one accumulator takes
SAMPLE = 256  # fewest elements whose root mean square means something

_statistical = False


@contextmanager
def statistical() -> Iterator[None]:
    """Within it, bounds hold for the root mean square of a tensor's errors, not per element."""
    global _statistical
    _statistical = True
    try:
        yield
    finally:
        _statistical = False


def check_both(compare: Callable[[], None]) -> None:
    """Runs a comparison with the certain bounds, then with the statistical ones."""
    compare()
    with statistical():
        compare()


def _root_mean_square(values: Tensor) -> float:
    return values[values.isfinite()].square().mean().sqrt().item()


def assert_close(name: str, actual: Tensor, expected: Tensor, bound: Tensor) -> None:
    """Each element of `actual` is within `bound` of `expected`; NaN matches only NaN."""
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, not {expected.shape}"
    actual = actual.detach().to("cpu", torch.float64)
    error = (actual - expected).abs()
    if _statistical:
        typical, limit = _root_mean_square(error), _root_mean_square(bound)
        assert actual.numel() < SAMPLE or not typical > limit, (
            f"{name}: the errors of {actual.numel()} elements have a root mean square of "
            f"{typical:.3g}, the statistical bound is {limit:.3g}"
        )
        return
    outside = ~(error <= bound) & ~(expected.isnan() & actual.isnan())
    if outside.any():
        worst = torch.where(outside, error / bound, 0).nan_to_num(math.inf).argmax()
        raise AssertionError(
            f"{name}: {int(outside.sum())} of {actual.numel()} elements outside the bound; worst "
            f"{actual.flatten()[worst].item()} for {expected.flatten()[worst].item()}, "
            f"bound {bound.flatten()[worst].item():.3g}"
        )


def roundings(terms: int) -> int:
    """The most roundings that one term passes through in a sum of `terms` terms."""
    return terms if terms <= LEVEL else LEVEL + roundings(-(-terms // LEVEL))


def gamma(terms: int, a: float) -> float:
    """The relative error bound of a sum of `terms` rounded products."""
    n = roundings(terms)
    return 2 * math.sqrt(n) * a if _statistical else n * a / (1 - n * a)
