"""Accuracy against parameters: the paper's Figure 7, and beside it what was trained here."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...paper.pictures import Point, accuracies
from ...paper.suites import ERRORS, ERRORS_CIFAR100
from ...paper.tables import ROWS
from ...training.curves import pyplot
from .canvas import keep


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
        accuracies(axes, data, points)
    rows = [
        (data, p.name, "published" if p.published else "measured", p.parameters, p.accuracy,
         p.deviation)
        for data, points in panels.items() for p in points
    ]  # fmt: skip
    head = ("data", "network", "source", "parameters (M)", "accuracy (%)", "deviation")
    keep(figure, to, "parameters", head, rows)
    return figure
