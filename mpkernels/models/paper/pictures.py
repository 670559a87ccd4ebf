"""Pictures as PNGs: accuracies of many networks, a confusion matrix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from ..training.curves import pyplot, save
from .labels import one_line

LONGEST = 40


class Point(NamedTuple):
    """A network in the picture of accuracies; both are in percent, NaN for no deviation."""

    name: str
    label: str
    parameters: int
    accuracy: float
    deviation: float


def accuracies(path: Path, title: str, points: list[Point]) -> None:
    """Draws accuracy and its deviation against parameters: blue, CP in green and CC in red."""
    figure, axes = pyplot().subplots(figsize=(9, 6), layout="constrained")
    for point in points:
        color = "C2" if point.name.endswith("_cp") else "C3" if point.name.endswith("_cc") else "C0"
        spread = 0 if math.isnan(point.deviation) else point.deviation
        x, y = point.parameters / 1e6, point.accuracy
        axes.errorbar(x, y, yerr=spread, fmt="o", color=color, capsize=3)
        axes.annotate(point.label, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set_xlabel("parameters (M)")
    axes.set_ylabel("accuracy (%)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    save(figure, path)


def confusion(path: Path, title: str, names: list[str], table: list[list[int]]) -> None:
    """Draws the confusion matrix as a PNG; colours show shares of each row."""
    shares = [[count / max(sum(row), 1) for count in row] for row in table]
    figure, axes = pyplot().subplots(figsize=(7, 6), layout="constrained")
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), label="share of the label")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("label")
    axes.set_title(title)
    if len(table) <= 20:
        names = [one_line(name) for name in names]
        names = [name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in names]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for row, values in enumerate(table):
            for column, count in enumerate(values):
                dark = shares[row][column] > 0.5
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7,
                          color="white" if dark else "black")  # fmt: skip
    save(figure, path)
