"""How the classes spread over a gate: the paper's Figure 10, with what that tells and by chance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ...paper.labels import one_line
from ...paper.placing import COLOURS
from ...training.curves import pyplot
from ..recorded.knowledge import information
from ..recorded.log import Log
from ..recorded.recorder import gates_of
from .canvas import gate_name, keep

SHOWN, ACROSS = 4, 3


def outermost(gates: np.ndarray, labels: np.ndarray) -> list[int]:
    """The classes whose mean gates are the two highest and the two lowest."""
    present = np.unique(labels)
    order = present[np.argsort([-gates[labels == label].mean() for label in present])]
    half = SHOWN // 2
    return [*order[:half], *order[half:][-half:]]


def draw(log: Log, folder: Path) -> Any:
    """Draws classes.png: a panel for each gate."""
    labels, classes = log.of("route")["labels"], log.about["classes"]
    wanted = gates_of(log)
    down = math.ceil(len(wanted) / ACROSS)
    figure, panels = pyplot().subplots(
        down, ACROSS, figsize=(11, 2.3 * down + 0.2), squeeze=False, layout="constrained"
    )
    rows = []
    for axes in panels.flat[len(wanted) :]:
        axes.axis("off")
    for axes, (at, i, j) in zip(panels.flat, wanted):
        gates = log.each_router("gates")[at][:, i, j]
        edges = np.linspace(gates.min(), max(gates.max(), gates.min() + 1e-6), 31)
        shown: list[tuple[Any, str]] = []
        for label, colour in zip(outermost(gates, labels), COLOURS):
            of_class = gates[labels == label]
            counts, _ = np.histogram(of_class, edges)
            axes.stairs(counts / len(of_class), edges, color=colour, fill=True, alpha=0.35)
            line = axes.stairs(counts / len(of_class), edges, color=colour, lw=1)
            # A label that begins with "_" would be left out.
            shown.append((line, f" {one_line(classes[label])[:20]}"))
        nats, p = information(gates, labels)
        axes.set_title(f"{gate_name(at, i, j)}   {nats:.2f} nats, p {p:.3f}", fontsize=8)
        axes.legend(*zip(*shown), fontsize=6, framealpha=0.6)
        axes.tick_params(labelsize=7)
        for label in np.unique(labels):
            of_class = gates[labels == label]
            rows.append((at + 1, i + 1, j + 1, one_line(classes[label]), len(of_class),
                         of_class.mean(), of_class.std(), nats, p))  # fmt: skip
    figure.supxlabel("gate", fontsize=9)
    figure.supylabel("share of the class", fontsize=9)
    head = ("router", "input", "output", "class", "images", "mean", "deviation", "nats", "p")
    keep(figure, folder, "classes", head, rows)
    return figure
