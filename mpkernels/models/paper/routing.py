"""What the trials of the routing experiment say (docs/routing.md): contrasts, and the default."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .contrasts import LEVEL, Difference, holm, paired

STARTS = ("linear", "glorot", "he")
CONTROLS = ("even", "stitch", "unrouted")
# Accuracies of one cell of the matrix: seed -> trial.json.
Trials = dict[int, dict[str, Any]]
Matrix = dict[tuple[str, str], Trials]  # of (network, arm)


@dataclass(frozen=True)
class Contrast(Difference):
    """A difference of accuracies, paired by seed.

    Args:
        network, first, second: the difference is that of `first` less `second`.
        adjusted: p by Holm's method over all contrasts of the experiment.
    """

    network: str = ""
    first: str = ""
    second: str = ""
    adjusted: float = math.nan


def _contrast(network: str, first: str, second: str, differences: Sequence[float]) -> Contrast:
    of = paired(differences)
    return Contrast(of.seeds, of.mean, of.low, of.high, of.p, network, first, second)


def by_mean_gates(trial: dict[str, Any]) -> float:
    """A trial's accuracy with every gate replaced by its mean over the test set."""
    rows = trial["gates"]["contrasts"]
    (row,) = (r for r in rows if (r["routers"], r["rule"]) == ("all", "mean"))
    return float(row["accuracy"])


def contrasts(matrix: Matrix) -> list[Contrast]:
    """All contrasts that were registered, of the seeds that both sides have."""
    found = []
    for network in dict.fromkeys(network for network, _ in matrix):
        for start in STARTS:
            own = matrix.get((network, start), {})
            if own:
                drops = [trial["accuracy"] - by_mean_gates(trial) for trial in own.values()]
                found.append(_contrast(network, start, f"{start}, mean gates", drops))
            for other in (*CONTROLS, *STARTS[: STARTS.index(start)]):
                others = matrix.get((network, other), {})
                if seeds := sorted(own.keys() & others.keys()):
                    gains = [own[s]["accuracy"] - others[s]["accuracy"] for s in seeds]
                    found.append(_contrast(network, start, other, gains))
    adjusted = holm([c.p for c in found])
    return [replace(c, adjusted=p) for c, p in zip(found, adjusted)]


def default(found: Sequence[Contrast], networks: Sequence[str], seeds: int) -> str | None:
    """The start that the registered rule picks; None unless every contrast has so many seeds.

    Of the starts that no other start beats significantly in any network, the one whose accuracy
    depends most on its gates' variation: the largest mean drop to mean gates over the networks.
    """
    of = {(c.network, c.first, c.second): c for c in found}
    pairs = [(a, b) for a in STARTS for b in STARTS[: STARTS.index(a)]]
    wanted = [(n, a, b) for n in networks for a, b in pairs]
    drops = {s: [of.get((n, s, f"{s}, mean gates")) for n in networks] for s in STARTS}
    needed = [of.get(key) for key in wanted] + [c for each in drops.values() for c in each]
    if any(c is None or c.seeds < seeds for c in needed):
        return None
    beaten = set()
    for network, a, b in wanted:
        c = of[network, a, b]
        if c.adjusted < LEVEL:
            beaten.add(b if c.mean > 0 else a)
    standing = [start for start in STARTS if start not in beaten] or list(STARTS)
    return max(standing, key=lambda s: sum(c.mean for c in drops[s] if c is not None))


def markdown(matrix: Matrix, plan: dict[str, Any]) -> str:
    """The report: accuracies, contrasts, the default; what is unfinished is told."""
    wanted = plan["seeds"]
    lines = [
        "# Does the routing route?", "",
        f"{plan['data']}, widths times {plan['scale']}, {plan['images']:,} training images, "
        f"{plan['epochs']} epochs, seeds 0 to {wanted - 1}; accuracies in percent, differences in "
        "points.", "",
        "| network | arm | trials | accuracy, mean | deviation |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for (network, arm), trials in matrix.items():
        values = [100 * trial["accuracy"] for trial in trials.values()]
        mean = f"{statistics.fmean(values):.2f}" if values else ""
        deviation = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        short = "" if len(values) >= wanted else f" of {wanted}: unfinished"
        lines.append(f"| {network} | {arm} | {len(values)}{short} | {mean} | {deviation} |")
    found = contrasts(matrix)
    lines += ["", "| network | contrast | seeds | difference | p | p, Holm |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for c in found:
        span = "" if math.isnan(c.low) else f" [{100 * c.low:+.2f}, {100 * c.high:+.2f}]"
        lines.append(
            f"| {c.network} | {c.first} less {c.second} | {c.seeds} | {100 * c.mean:+.2f}{span} | "
            f"{c.p:.2g} | {c.adjusted:.2g} |"
        )
    networks = list(dict.fromkeys(network for network, _ in matrix))
    picked = default(found, networks, wanted)
    said = f"The rule picks {picked}." if picked else "Unfinished: the rule picks no start yet."
    return "\n".join([*lines, "", said, ""])
