"""Pictures as PNGs: accuracies of many networks, a confusion matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..training.curves import pyplot, save
from .labels import one_line
from .placing import COLOURS, place
from .tables import ROWS

LONGEST = 40
LABELS = {row.name: row.label for row in ROWS}


# The end of a network's name -> colour, marker and words; the last one is of all others.
KINDS = {
    "_cp": (COLOURS[2], "s", "cross-predicted"),
    "_cc": (COLOURS[1], "^", "cross-connected"),
    "": (COLOURS[0], "o", "others"),
}


@dataclass(frozen=True)
class Point:
    """A network: millions of parameters; accuracy and its deviation over trainings in percent.

    The deviation is NaN where there is none.
    """

    name: str
    parameters: float
    accuracy: float
    deviation: float
    published: bool


def accuracies(axes: Any, title: str, points: list[Point]) -> None:
    """Draws accuracy, with its deviation, against parameters; published ones hollow."""
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
    place(axes, [(p.parameters, p.accuracy, LABELS.get(p.name, p.name)) for p in points])


def comparison(path: Path, title: str, points: list[Point]) -> None:
    """Draws the accuracies of a comparison as a PNG."""
    figure, axes = pyplot().subplots(figsize=(9, 6.4))
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.2, top=0.94)
    accuracies(axes, title, points)
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
