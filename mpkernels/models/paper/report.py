"""The report of a comparison: errors beside the paper's, and which of its orders they show."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from pathlib import Path
from typing import Any

from ..training.files import write_text
from .pictures import Point, comparison
from .reading import section
from .results import Result, failures, machines, results_of
from .suites import ERRORS, ERRORS_350, ERRORS_CIFAR100, LONGER, Entry


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def printed_error(entry: Entry, plan: dict[str, Any]) -> str:
    """The error that the paper prints of a network for these images and epochs, if any."""
    errors = ERRORS_CIFAR100 if plan["data"] == "cifar100" else ERRORS
    if plan.get("recipe") == LONGER and plan["data"] != "cifar100":
        errors = ERRORS_350
    return str(errors.get(entry.name, ""))


def markdown(
    plan: dict[str, Any],
    entries: tuple[Entry, ...],
    results: dict[str, Result],
    left_out: dict[str, str],
    failed: dict[str, list[str]],
    trained_on: list[str],
) -> str:
    """The whole report; failed trials are counted, so that leaving them out is visible."""
    about = ", ".join(f"{name} {value}" for name, value in plan.items() if value is not None)
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
        printed = printed_error(entry, plan)
        count = f", {len(lost)} failed" if lost else ""
        if result is None:
            reason = left_out.get(entry.name, f"not trained{count}")
            lines.append(f"| {entry.label} | {reason} | | | | | {entry.millions} | {printed} |")
            continue
        cells = [
            entry.label, f"{result.parameters:,}", f"{len(result.errors)}{count}",
            _number(result.mean), _number(result.deviation), _number(result.best),
            entry.millions, printed,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if failed:
        lines += ["", "Trials without a result, which no mean holds:", ""]
        lines += [f"- {name}, {reason}" for name, reasons in failed.items() for reason in reasons]
    lines += section(results)
    return "\n".join([*lines, ""])


def table(plan: dict[str, Any], entries: tuple[Entry, ...], results: dict[str, Result]) -> str:
    """The results as CSV, an error per trial."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "parameters", "mean", "deviation", "best", "paper", "errors"])
    for entry in entries:
        if entry.name in results:
            result = results[entry.name]
            errors = " ".join(f"{error:.4f}" for error in result.errors)
            figures = (_number(v) for v in (result.mean, result.deviation, result.best))
            printed = printed_error(entry, plan)
            writer.writerow([entry.name, result.parameters, *figures, printed, errors])
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
    write_text(out / "report.csv", table(plan, entries, results))
    with contextlib.suppress(ImportError):  # report.csv has the same figures
        points = [
            Point(entry.name, result.parameters / 1e6, 100 - result.mean, result.deviation, False)
            for entry in entries
            if (result := results.get(entry.name)) is not None
        ]
        comparison(out / "report.png", f"{plan['suite']} on {plan['data']}", points)
