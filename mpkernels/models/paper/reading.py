"""Which of the paper's orders the trials of a comparison show.

The orders are the paper's (`CLAIMS`). Each is a difference of errors, paired by seed; all that are
looked at are adjusted together by Holm's method, those of networks that have not converged too:
what is left out after a look at the errors must not make the rest count for more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

from .contrasts import LEVEL, Difference, holm, paired, within
from .results import Result
from .suites import CLAIMS, ENSEMBLES, Claim

MARGIN = 0.5  # points of error within which networks count as equal
# A deeper network that makes more errors than the shallower one has not converged.
DEEPER = {"deepcnn": "basecnn", "se_deepcnn": "se_basecnn"}


@dataclass(frozen=True)
class Reading:
    """What the trials say of one pair of a claim.

    Args:
        claim, better, worse: errors of `worse` less errors of `better` are looked at.
        difference: of the seeds that both have.
        p: of no difference; of a claim that both are equal, that they differ by `MARGIN` or more.
        converged: whether both networks have, and all members of an ensemble.
        adjusted: p by Holm's method over all pairs.
    """

    claim: Claim
    better: str
    worse: str
    difference: Difference
    p: float
    converged: bool
    adjusted: float = math.nan

    @property
    def verdict(self) -> str:
        """In words."""
        if math.isnan(self.adjusted):
            return "one trial says nothing"
        if not self.converged:
            return "has not converged"
        if self.claim.equal:
            return f"equal within {MARGIN}" if self.adjusted < LEVEL else "does not show"
        if self.adjusted >= LEVEL:
            return "does not show"
        return "shows" if self.difference.mean > 0 else "reversed"


def unconverged(results: dict[str, Result]) -> list[str]:
    """The deep networks that make more errors than the shallower ones of their kind."""
    return [
        deep for deep, shallow in DEEPER.items()
        if deep in results and shallow in results and results[deep].mean > results[shallow].mean
    ]  # fmt: skip


def readings(results: dict[str, Result]) -> list[Reading]:
    """All pairs of the paper's orders that have trials of the same seeds."""
    deep, found = unconverged(results), []
    for claim in CLAIMS:
        for better, worse in product(claim.better, claim.worse):
            if {better, worse} <= results.keys():
                one, other = results[better].by_seed, results[worse].by_seed
                if differences := [other[s] - one[s] for s in sorted(one.keys() & other.keys())]:
                    of = paired(differences)
                    p = within(differences, MARGIN) if claim.equal else of.p
                    sides = [ENSEMBLES.get(side, (side,)) for side in (better, worse)]
                    converged = not any(name in deep for side in sides for name in side)
                    found.append(Reading(claim, better, worse, of, p, converged))
    adjusted = holm([reading.p for reading in found])
    return [replace(reading, adjusted=p) for reading, p in zip(found, adjusted)]


def _p(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2g}"


def _table(found: list[Reading]) -> list[str]:
    """The paper's orders, a line per pair of networks."""
    lines = [
        "| the paper's order | fewer errors | more | seeds | difference | p | p, Holm | here |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for of in found:
        d = of.difference
        span = "" if math.isnan(d.low) else f" [{d.low:+.2f}, {d.high:+.2f}]"
        lines.append(
            f"| {of.claim.text} | {of.better} | {of.worse} | {d.seeds} | {d.mean:+.2f}{span} | "
            f"{_p(of.p)} | {_p(of.adjusted)} | {of.verdict} |"
        )
    return lines


def section(results: dict[str, Result]) -> list[str]:
    """The lines of a report on the paper's orders; none without trials of them."""
    found = readings(results)
    if not found:
        return []
    shown = sum(of.verdict == "shows" or of.verdict.startswith("equal") for of in found)
    counted = sum(not math.isnan(of.p) for of in found)
    reversed_ = sum(of.verdict == "reversed" for of in found)
    lines = [
        "", "## What of the paper's orders shows", "",
        f"Orders that show: {shown} of {counted}; reversed: {reversed_}. Differences are those of "
        "errors of the same seed, in points, with intervals of 95 %; p is Student's, and of equal "
        f"networks that of two one-sided tests against {MARGIN} points. An order counts where p, "
        f"adjusted by Holm's method for all {counted}, is below {LEVEL}.",
        "",
    ]  # fmt: skip
    if deep := unconverged(results):
        lines += [
            "A deeper network that makes more errors than the shallower one of its kind has not "
            f"converged, and no order with it is said to show: {', '.join(deep)}.", "",
        ]  # fmt: skip
    return lines + _table(found)
