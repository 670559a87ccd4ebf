"""What opens a gate: images at both ends of it, and made ones; the paper's Figure 9."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...training.curves import pyplot
from ..recorded.log import Log
from ..recorded.maximise import OBJECTIVES
from ..recorded.recorder import extremes
from .canvas import gate_name, keep, picture


def draw(log: Log, folder: Path, at: int, i: int, j: int) -> Any:
    """Draws gate-R-I-J.png (numbers from 1 on) of the gate from input i to output j of a router."""
    pictures, made = log.of("pictures"), log.of("maximise")
    held = {int(index): place for place, index in enumerate(pictures["indices"])}
    gates = log.each_router("gates")[at][:, i, j]
    number = made["gates"].tolist().index([at, i, j])
    starts = made["reached"].shape[2]
    ends = extremes(gates)
    across = max(1, (len(ends[0]) + 1) // 2)
    plt = pyplot()
    figure = plt.figure(figsize=(11, 4.9), layout="constrained")
    figure.suptitle(f"{gate_name(at, i, j)}, router {log.routers[at]['name']}: "
                    f"{gates.min():.3f} to {gates.max():.3f} over the test images")  # fmt: skip
    left, right = figure.subfigures(1, 2, width_ratios=(across, starts + 0.5))
    rows: list[tuple[Any, ...]] = []
    for part, (end, words) in zip(left.subfigures(2, 1), zip(ends, ("highest", "lowest"))):
        part.suptitle(f"{words} gates", fontsize=9)
        for place, axes in enumerate(part.subplots(2, across).flat):
            axes.axis("off")
            if place < len(end):
                picture(axes, pictures["pixels"][held[int(end[place])]])
                axes.set_title(f"{gates[end[place]]:.3f}", fontsize=7, pad=2)
                rows.append((words, int(end[place]), gates[end[place]]))
    titles = ("made to raise the score", "made to raise the gate")
    for kind, part in enumerate(right.subfigures(2, 1)):
        part.suptitle(titles[kind], fontsize=9)
        for start, axes in enumerate(part.subplots(1, starts, squeeze=False).flat):
            picture(axes, made["pixels"][number, kind, start])
            reached = made["reached"][number, kind, start]
            axes.set_title(f"{reached:.3f}", fontsize=7, pad=2)
            rows.append((f"made by {OBJECTIVES[kind]}", start, reached))
    keep(figure, folder, f"gate-{at + 1}-{i + 1}-{j + 1}", ("picture", "number", "gate"), rows)
    return figure
