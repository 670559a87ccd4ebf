"""Accuracy against parameters: the paper's Figure 7, and beside it what was trained here."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...paper.suites import ERRORS, ERRORS_CIFAR100
from ...paper.tables import ROWS
from ...training.curves import pyplot
from .canvas import COLOURS, keep, place

LABELS = {row.name: row.label for row in ROWS}
# The end of a network's name -> colour, marker and words; the last one is of all others.
KINDS = {
    "_cp": (COLOURS[2], "s", "cross-predicted"),
    "_cc": (COLOURS[1], "^", "cross-connected"),
    "": (COLOURS[0], "o", "others"),
}


@dataclass(frozen=True)
class Point:
    """A network; accuracy and its deviation over trainings are in percent, NaN for none."""

    name: str
    parameters: float
    accuracy: float
    deviation: float
    published: bool


def published(errors: Mapping[str, float]) -> list[Point]:
    """What the paper prints, of the networks of its Table 3."""
    rows = [row for row in ROWS if row.table == 3 and row.name in errors]
    return [
        Point(row.name, float(row.millions), 100 - errors[row.name], math.nan, True) for row in rows
    ]


def measured(folder: Path) -> tuple[str, list[Point]]:
    """The name of the data, and the networks of a comparison.

    Raises:
        OSError: the folder holds none.
        ValueError: its files are not those of `mpkernels compare`.
    """
    try:
        data = json.loads((folder / "plan.json").read_text("utf-8"))["data"]
        with (folder / "report.csv").open(encoding="utf-8", newline="") as file:
            points = [
                Point(row["network"], int(row["parameters"]) / 1e6, 100 - float(row["mean"]),
                      float(row["deviation"] or "nan"), False)
                for row in csv.DictReader(file)
            ]  # fmt: skip
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"run: {folder} holds no report of `mpkernels compare`: {error}"
        ) from error
    return data, points


def _panel(axes: Any, title: str, points: list[Point]) -> None:
    for end, (colour, marker, words) in KINDS.items():
        for is_published in (True, False):
            some = [
                p for p in points
                if p.published == is_published
                and next(e for e in KINDS if p.name.endswith(e)) == end
            ]  # fmt: skip
            if some:
                source = "published" if is_published else "measured"
                axes.errorbar(
                    [p.parameters for p in some], [p.accuracy for p in some],
                    [0 if math.isnan(p.deviation) else p.deviation for p in some],
                    fmt=marker, ms=6, color=colour, mfc="white" if is_published else colour,
                    capsize=0 if is_published else 2, label=f"{words}, {source}", ls="none",
                )  # fmt: skip
    axes.set(xlabel="parameters (M)", ylabel="accuracy (%)", title=title)
    axes.grid(alpha=0.3)
    axes.margins(0.16, 0.12)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def draw(folder: Path | None, to: Path) -> Any:
    """Draws parameters.png: CIFAR10, CIFAR100, and another data set of a comparison's `folder`."""
    panels = {"cifar10": published(ERRORS), "cifar100": published(ERRORS_CIFAR100)}
    if folder is not None:
        data, points = measured(folder)
        panels[data] = panels.get(data, []) + points
    plt = pyplot()
    figure, axes_of = plt.subplots(1, len(panels), figsize=(5.4 * len(panels), 5.2))
    figure.subplots_adjust(left=0.045, right=0.99, bottom=0.24, top=0.93, wspace=0.17)
    for axes, (data, points) in zip(axes_of, panels.items()):
        _panel(axes, data, points)
        place(axes, [(p.parameters, p.accuracy, LABELS.get(p.name, p.name)) for p in points])
    rows = [
        (data, p.name, "published" if p.published else "measured", p.parameters, p.accuracy,
         p.deviation)
        for data, points in panels.items() for p in points
    ]  # fmt: skip
    head = ("data", "network", "source", "parameters (M)", "accuracy (%)", "deviation")
    keep(figure, to, "parameters", head, rows)
    return figure
