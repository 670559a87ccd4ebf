"""What gates know of the image at every depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...paper.placing import COLOURS
from ...training.curves import pyplot
from ..recorded.knowledge import by_depth, rise
from ..recorded.log import Log
from .canvas import keep

MARKS = ("o", "s", "^", "D")


def draw(log: Log, folder: Path) -> Any:
    """Draws depth.png: R^2 of each context at each router, and the 95th percentile of chance."""
    found = by_depth(log)
    figure, axes = pyplot().subplots(figsize=(6, 4), layout="constrained")
    depth = np.arange(1, len(log.routers) + 1)
    rows = []
    for of, colour, mark in zip(found, COLOURS, MARKS):
        axes.plot(depth, of.explained, marker=mark, color=colour, label=of.context)
        axes.plot(depth, of.chance, ":", color=colour, lw=1)
        values = zip(depth, of.explained, of.chance)
        rows += [(of.context, int(at), r2, chance) for at, r2, chance in values]
    axes.plot([], [], ":", color="0.4", lw=1, label="chance, 95th percentile")
    axes.set(xlabel="router", ylabel="share of the gates' variance explained", ylim=(-0.02, 1.02))
    axes.set_xticks(depth)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    if len(found) > 1:
        low, high = found[0], found[-1]
        gain = f"{high.context} gains {rise(low, high):+.2f} on {low.context}"
        axes.set_title(f"from the first to the last router, {gain}", fontsize=9)
    keep(figure, folder, "depth", ("context", "router", "explained", "chance"), rows)
    return figure
