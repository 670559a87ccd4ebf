"""Colours and labels of pictures: colours that all tell apart, labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# Okabe and Ito's colours, which colour-blind people tell apart; red, green and blue have their
# nearest ones here.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def place(axes: Any, points: Sequence[tuple[float, float, str]], size: float = 7) -> list[Any]:
    """Labels points where neither labels nor points are, near by, with a line if not next to it.

    In a crowd a label may find no room in twenty circles around its point; it then overlaps.

    Returns:
        the labels.
    """
    from matplotlib.text import Text

    figure = axes.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    dots = axes.transData.transform([(x, y) for x, y, _ in points])
    radius = 5 * figure.dpi / 72
    taken = [(x - radius, y - radius, x + radius, y + radius) for x, y in dots]
    frame = axes.get_window_extent(renderer)
    labels = []

    def free(box: tuple[float, float, float, float]) -> bool:
        inside = (
            frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1
        )
        return inside and not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
            for other in taken
        )

    for (x, y, text), (at, up) in zip(points, dots):
        label = axes.annotate(
            text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=size,
            ha="center", va="center",
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.5", "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip
        extent = Text.get_window_extent(label, renderer)  # without the line
        wide, high = extent.width / 2 + 1, extent.height / 2 + 1
        for step in range(240):
            angle, far = 2 * math.pi * (step % 12) / 12, 1 + 0.35 * (step // 12)
            dx = math.cos(angle) * (wide + radius) * far
            dy = math.sin(angle) * (high + radius) * far
            box = (at + dx - wide, up + dy - high, at + dx + wide, up + dy + high)
            if free(box):
                break
        taken.append(box)
        label.set_position((dx * 72 / figure.dpi, dy * 72 / figure.dpi))
        if far == 1:
            label.arrow_patch.set_visible(False)
        labels.append(label)
    return labels
