"""Differences between networks, paired by seed: how large, and whether chance explains them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student

LEVEL = 0.05  # of significance, after Holm's adjustment


@dataclass(frozen=True)
class Difference:
    """The mean of differences, one a seed.

    Args:
        seeds: how many.
        mean, low, high: the mean, and its interval of 95 % by Student's t.
        p: of a mean of 0, two-sided.
    """

    seeds: int
    mean: float
    low: float
    high: float
    p: float


def paired(differences: Sequence[float]) -> Difference:
    """Of at least one difference; interval and p are NaN for fewer than two."""
    count, mean = len(differences), statistics.fmean(differences)
    if count < 2:
        return Difference(count, mean, math.nan, math.nan, math.nan)
    error = statistics.stdev(differences) / math.sqrt(count)
    half = float(student.ppf(0.975, count - 1)) * error
    p = float(2 * student.sf(abs(mean) / error, count - 1)) if error else float(mean == 0)
    return Difference(count, mean, mean - half, mean + half, p)


def within(differences: Sequence[float], margin: float) -> float:
    """p of two one-sided tests, that the mean lies outside of -margin to margin.

    A small one says that both are equal but for the margin; NaN for fewer than two differences.
    """
    count, mean = len(differences), statistics.fmean(differences)
    if count < 2:
        return math.nan
    error = statistics.stdev(differences) / math.sqrt(count)
    if not error:
        return float(abs(mean) >= margin)
    return float(student.sf((margin - abs(mean)) / error, count - 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Each p adjusted for their number by Holm's method; NaN stays NaN and does not count."""
    order = sorted((at for at, p in enumerate(ps) if not math.isnan(p)), key=lambda at: ps[at])
    adjusted, least = [math.nan] * len(ps), 0.0
    for place, at in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * ps[at]))
        adjusted[at] = least
    return adjusted
