"""The one comparison of the tests: element by element against float64, within a derived bound.

Inputs are taken as exact. First-order rounding error analysis: where each of N products passes
through at most n roundings in a dtype of unit roundoff a, their sum is off by at most
n a / (1 - n a) times the sum of the magnitudes. In no order of ours an accumulator takes more than
512 terms before its sum goes to the next level, which bounds n. Errors of intermediate values are
carried through the formulas, and the last rounding to the result's dtype adds half an ulp.

That bound is certain, and far above what rounding does. Beside it stands a statistical one: n
roundings add up like a random walk, so that the errors of a whole tensor have a root mean square of
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
    """The same values in float64, detached, on the CPU: the oracle is computed there."""
    return None if t is None else t.detach().to("cpu", torch.float64)


def rounded(value: Tensor, error: Tensor, dtype: torch.dtype, accumulate: torch.dtype) -> Tensor:
    """The bound after the store: half an ulp of the result's dtype on top."""
    u = ROUNDOFF[dtype] if dtype != accumulate else 0.0
    if INTERPRETED and dtype == torch.bfloat16:
        u *= 2  # the interpreter's cast to bf16 truncates
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return (error * (1 + u) + u * value.abs() + smallest) * ORACLE.get(accumulate, 1.0)


LEVEL = 512  # terms that an accumulator takes at most
SAMPLE = 256  # elements that say something about their root mean square

_statistical = False


@contextmanager
def statistical() -> Iterator[None]:
    """Bounds made within are of the root mean square of a tensor's errors."""
    global _statistical
    _statistical = True
    try:
        yield
    finally:
        _statistical = False


def check_both(compare: Callable[[], None]) -> None:
    """Runs a comparison with the certain bounds, and with the statistical ones."""
    compare()
    with statistical():
        compare()


def _root_mean_square(values: Tensor) -> float:
    return values[values.isfinite()].square().mean().sqrt().item()


def assert_close(name: str, found: Tensor, wanted: Tensor, bound: Tensor) -> None:
    """Every element of `found` within `bound` of `wanted`; NaN only where `wanted` is NaN."""
    assert found.shape == wanted.shape, f"{name}: shape {found.shape}, wanted {wanted.shape}"
    found = found.detach().to("cpu", torch.float64)
    error = (found - wanted).abs()
    if _statistical:
        typical, most = _root_mean_square(error), _root_mean_square(bound)
        assert found.numel() < SAMPLE or not typical > most, (
            f"{name}: the errors of {found.numel()} elements have a root mean square of "
            f"{typical:.3g}, the statistical bound is {most:.3g}"
        )
        return
    outside = ~(error <= bound) & ~(wanted.isnan() & found.isnan())
    if outside.any():
        worst = torch.where(outside, error / bound, 0).nan_to_num(math.inf).argmax()
        raise AssertionError(
            f"{name}: {int(outside.sum())} of {found.numel()} elements outside the bound; worst "
            f"{found.flatten()[worst].item()} for {wanted.flatten()[worst].item()}, "
            f"bound {bound.flatten()[worst].item():.3g}"
        )


def roundings(terms: int) -> int:
    """Those that a term passes through at most in a sum of so many."""
    return terms if terms <= LEVEL else LEVEL + roundings(-(-terms // LEVEL))


def gamma(terms: int, a: float) -> float:
    """The factor of a sum of so many rounded products."""
    n = roundings(terms)
    return 2 * math.sqrt(n) * a if _statistical else n * a / (1 - n * a)
