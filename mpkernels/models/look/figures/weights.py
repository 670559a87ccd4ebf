"""Are parallel layers different, and more so than without routers? The paper's Figure 11.

Histograms of two trained layers always differ a little, and say nothing of what the layers do.
Beside them stands a network whose paths never meet: its paths are two trainings of one network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...paper.placing import COLOURS
from ...training.curves import pyplot
from ..recorded.log import Log
from .canvas import keep

STYLES = ("-o", "--s")


def draw(log: Log, folder: Path) -> Any:
    """Draws weights.png: a row of histograms for each network, then distances and CKA."""
    weights, names = log.of("weights"), log.about["weights"]["layers"]
    most = max(map(len, names.values()))
    plt = pyplot()
    figure = plt.figure(figsize=(1.25 * most, 1.7 * len(names) + 2.4), layout="constrained")
    *histograms, below = figure.subfigures(
        len(names) + 1, 1, height_ratios=[*[1.7] * len(names), 2.4]
    )
    rows: list[tuple[Any, ...]] = []
    for part, (name, kinds) in zip(histograms, names.items()):
        part.suptitle(f"weights, {name}", fontsize=9)
        panels = part.subplots(1, most, squeeze=False)[0]
        for axes in panels[len(kinds) :]:
            axes.axis("off")
        for at, (axes, kind) in enumerate(zip(panels, kinds)):
            edges = weights[f"{name}/edges/{at}"]
            for path, counts in enumerate(weights[f"{name}/counts/{at}"]):
                axes.stairs(counts / counts.sum(), edges, color=COLOURS[path % len(COLOURS)], lw=1)
            axes.set_title(kind, fontsize=7)
            axes.set_yticks([])
            axes.tick_params(labelsize=6)
            axes.locator_params("x", nbins=3)
            rows.append((name, "distance", at + 1, kind, weights[f"{name}/distance"][at]))
    left, right = below.subplots(1, 2)
    for number, name in enumerate(names):
        for axes, key in ((left, "distance"), (right, "cka")):
            values = weights[f"{name}/{key}"]
            axes.plot(np.arange(1, len(values) + 1), values, STYLES[number % 2], ms=4, label=name,
                      color=COLOURS[number])  # fmt: skip
        rows += [
            (name, "cka", at + 1, "", value) for at, value in enumerate(weights[f"{name}/cka"])
        ]
    left.set(xlabel="layer", ylabel="distance of weights", ylim=(0, None))
    right.set(xlabel="layer", ylabel="CKA of two paths", ylim=(-0.05, 1.05))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    keep(figure, folder, "weights", ("network", "figure", "number", "layer", "value"), rows)
    return figure
