"""The report of a comparison: errors beside the paper's, and which of its orders they show."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..training.files import write_text
from .pictures import Point, accuracies
from .suites import CLAIMS, ENSEMBLES, Claim, Entry

LEVEL = 0.05  # of significance


@dataclass(frozen=True)
class Result:
    """What the trials of one network reached.

    Args:
        errors: percent of wrong test images after the last epoch of each trial.
        best: the smallest error after any epoch of any trial, which papers like to report; NaN for
            ensembles.
        parameters: number of trainable parameters.
    """

    errors: tuple[float, ...]
    best: float
    parameters: int

    @property
    def mean(self) -> float:
        """The mean error of the trials."""
        return statistics.fmean(self.errors)

    @property
    def deviation(self) -> float:
        """The standard deviation between trials; NaN for one trial."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else math.nan


def read(out: Path, name: str) -> Result | None:
    """The finished trials of a network; None if there are none."""
    paths = sorted((out / name).glob("trial*/trial.json"))
    if not paths:
        return None
    trials = [json.loads(path.read_text("utf-8")) for path in paths]
    errors = [[100 * (1 - line["test_accuracy"]) for line in trial["metrics"]] for trial in trials]
    return Result(
        tuple(of_trial[-1] for of_trial in errors),
        min(min(of_trial) for of_trial in errors),
        trials[0]["parameters"],
    )


def failures(out: Path, name: str) -> list[str]:
    """The failed trials of a network, with their reasons."""
    paths = sorted((out / name).glob("trial*/failed.json"))
    return [
        f"{path.parent.name}: {json.loads(path.read_text('utf-8'))}"
        for path in paths
        if not (path.parent / "trial.json").exists()  # else it was trained after all
    ]


def machines(out: Path, entries: tuple[Entry, ...]) -> list[str]:
    """Hardware, versions and commit of the trials, without repetitions."""
    lines: dict[str, None] = {}
    for entry in entries:
        for path in sorted((out / entry.name).glob("trial*/environment.json")):
            held = json.loads(path.read_text("utf-8"))
            lines[
                f"{held['device']}, {held['threads']} threads, torch {held['torch']}, "
                f"mpkernels {held['mpkernels']}, commit {held['commit']}"
            ] = None
    return list(lines)


def _predictions(out: Path, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    predictions = []
    for path in sorted((out / name).glob("trial*/predictions.npz")):
        with np.load(path) as held:  # refuses pickled content
            predictions.append((held["probabilities"], held["labels"]))
    return predictions


def ensemble(out: Path, name: str) -> Result | None:
    """Averages the probabilities of trained members; None while some are missing.

    With one kind of member all of its trials together are one result. With several kinds their
    first trials are one result, their second trials another, and so on.
    """
    members = ENSEMBLES[name]
    held = [_predictions(out, member) for member in members]
    results = [read(out, member) for member in members]
    if len(members) == 1:
        groups = [held[0]] if len(held[0]) > 1 else []
        size = len(held[0])
    else:
        groups, size = [list(group) for group in zip(*held)], 1
    if not groups or None in results:
        return None
    errors = []
    for group in groups:
        mean = np.mean([probabilities for probabilities, _ in group], axis=0)
        errors.append(100 * float((mean.argmax(1) != group[0][1]).mean()))
    parameters = sum(result.parameters for result in results if result is not None)
    return Result(tuple(errors), math.nan, size * parameters)


def results_of(out: Path, entries: tuple[Entry, ...]) -> dict[str, Result]:
    """The result of each network that has trials."""
    results: dict[str, Result] = {}
    for entry in entries:
        read_one = ensemble if entry.name in ENSEMBLES else read
        result = read_one(out, entry.name)
        if result is not None:
            results[entry.name] = result
    return results


def by_chance(one: Result, other: Result) -> float:
    """Welch's p: how often equal networks differ as much; NaN if either has a single trial."""
    if min(len(one.errors), len(other.errors)) < 2:
        return math.nan
    if one.deviation == other.deviation == 0:
        return float(one.mean == other.mean)
    known = [(r.mean, r.deviation, len(r.errors)) for r in (one, other)]
    return float(stats.ttest_ind_from_stats(*known[0], *known[1], equal_var=False).pvalue)


def verdict(claim: Claim, better: Result, worse: Result) -> tuple[float, float, str]:
    """How much larger the errors of `worse` are, Welch's p, and what that says of the claim.

    A difference counts if p is below `LEVEL`. If not, networks that should differ do not show it,
    and nothing contradicts that others are equal.
    """
    difference, p = worse.mean - better.mean, by_chance(better, worse)
    if math.isnan(p):
        return difference, p, "one trial says nothing"
    if claim.equal:
        return difference, p, "agrees" if p >= LEVEL else "differs"
    if p >= LEVEL:
        return difference, p, "does not show"
    return difference, p, "shows" if difference > 0 else "reversed"


def reading(results: dict[str, Result]) -> list[str]:
    """The paper's orders, a line per pair of networks."""
    lines = [
        "| the paper's order | smaller error | larger error | difference | p | here |",
        "|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        for better in claim.better:
            for worse in claim.worse:
                if better not in results or worse not in results:
                    continue
                difference, p, says = verdict(claim, results[better], results[worse])
                lines.append(
                    f"| {claim.text} | {better} | {worse} | {difference:+.2f} | {p:.2g} | {says} |"
                )
    return lines


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def markdown(
    plan: dict[str, Any],
    entries: tuple[Entry, ...],
    results: dict[str, Result],
    left_out: dict[str, str],
    failed: dict[str, list[str]],
    trained_on: list[str],
) -> str:
    """The whole report; failed trials are counted, so that leaving them out is visible."""
    about = ", ".join(f"{name} {value}" for name, value in plan.items())
    lines = [
        f"# {plan['suite']} on {plan['data']}", "",
        f"Written by `mpkernels compare`: {about}. Percent of wrong test images after the "
        "last epoch; seeds are 0, 1, ... of the trials. best: the smallest error after any epoch "
        "of any trial, chosen on the test set, as the paper reports it. The paper's figures are "
        "those of its data set at full size.", "",
        "At a scale S all widths are times S, with S of the training images and S squared of the "
        "epochs unless these are given.", "",
        *(f"Trained on {machine}." for machine in trained_on), *[""] * bool(trained_on),
        "| network | parameters | trials | mean | deviation | best | paper, M | paper, % |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for entry in entries:
        result, lost = results.get(entry.name), failed.get(entry.name, [])
        count = f", {len(lost)} failed" if lost else ""
        if result is None:
            reason = left_out.get(entry.name, f"not trained{count}")
            lines.append(f"| {entry.label} | {reason} | | | | | {entry.millions} | {entry.error} |")
            continue
        cells = [
            entry.label, f"{result.parameters:,}", f"{len(result.errors)}{count}",
            _number(result.mean), _number(result.deviation), _number(result.best),
            entry.millions, str(entry.error),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if failed:
        lines += ["", "Trials without a result, which no mean holds:", ""]
        lines += [f"- {name}, {reason}" for name, reasons in failed.items() for reason in reasons]
    read_lines = reading(results)
    if len(read_lines) > 2:
        lines += ["", "## What of the paper's orders shows", "",
                  f"Differences of mean errors; one counts where Welch's p is below {LEVEL}. Each "
                  "pair is looked at by itself: of the "
                  f"{len(read_lines) - 2} here, {LEVEL:.0%} would count by chance if all networks "
                  "were equal.", "", *read_lines]  # fmt: skip
    return "\n".join([*lines, ""])


def table(entries: tuple[Entry, ...], results: dict[str, Result]) -> str:
    """The results as CSV, an error per trial."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "parameters", "mean", "deviation", "best", "paper", "errors"])
    for entry in entries:
        if entry.name in results:
            result = results[entry.name]
            errors = " ".join(f"{error:.4f}" for error in result.errors)
            figures = (_number(v) for v in (result.mean, result.deviation, result.best))
            writer.writerow([entry.name, result.parameters, *figures, entry.error, errors])
    return text.getvalue()


def write(
    out: Path, plan: dict[str, Any], entries: tuple[Entry, ...], left_out: dict[str, str]
) -> None:
    """Writes report.md, report.csv and, if matplotlib is installed, report.png."""
    results = results_of(out, entries)
    failed = {entry.name: lost for entry in entries if (lost := failures(out, entry.name))}
    write_text(
        out / "report.md",
        markdown(plan, entries, results, left_out, failed, machines(out, entries)),
    )
    write_text(out / "report.csv", table(entries, results))
    with contextlib.suppress(ImportError):  # report.csv has the same figures
        points = [
            Point(entry.name, entry.label, result.parameters, 100 - result.mean, result.deviation)
            for entry in entries
            if (result := results.get(entry.name)) is not None
        ]
        accuracies(out / "report.png", f"{plan['suite']} on {plan['data']}", points)
