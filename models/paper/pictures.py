"""Pictures as PNGs: curves with gates, accuracies of many networks, a confusion matrix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..data import Images, normalise
from ..training.curves import Metrics, draw, pyplot, save

SHOWN = 6
# No curve has these colours: they tell output paths apart, not runs.
COLOURS = ("#2a9d8f", "#8e6bbf", "#d1495b", "#8d99ae")


def _bars(axes: Any, gates: torch.Tensor) -> None:
    """Draws the gates [m, n] of one image at one router, a group of bars per input path."""
    inputs, outputs = gates.shape
    width = 0.8 / outputs
    for j in range(outputs):
        at = [i + (j - (outputs - 1) / 2) * width for i in range(inputs)]
        bars = axes.bar(at, gates[:, j].tolist(), width, color=COLOURS[j % len(COLOURS)])
        axes.bar_label(bars, fmt="%.2f", fontsize=6.5, padding=1)
    # The line of an even split, where gates start.
    axes.axhline(1 / outputs, color="black", linewidth=0.6, linestyle=":")
    axes.set_ylim(0, 1.25)
    axes.set_xlim(-0.6, inputs - 0.4)
    axes.set_xticks(range(inputs), [f"from path {i + 1}" for i in range(inputs)], fontsize=7)
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"], fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def curves_and_gates(
    path: Path,
    images: Images,
    runs: dict[str, Metrics],
    model: nn.Module,
    device: str,
    title: str,
) -> None:
    """Draws the curves of a training, and the gates of some test images as bars.

    Args:
        path: where to write the PNG.
        images: the data; the picture shows the first test image of each label.
        runs: the metrics of each run, by its name.
        model: a network that returns its gates, as those with routers do.
        device: where the model is.
        title: one line or several.
    """
    from matplotlib.patches import Rectangle

    labels = images.test_y.tolist()
    chosen = [labels.index(label) for label in sorted(set(labels))][:SHOWN]
    with torch.no_grad():
        logits, gates = model.eval()(
            normalise(images, images.test_x[chosen].to(device)), return_gates=True
        )
    guesses = logits.argmax(1).tolist()
    height = 1.3 * len(chosen) + 0.7
    figure = pyplot().figure(figsize=(12, 4 + height), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(4, height))
    heading, _, rest = title.partition("\n")
    top.suptitle(heading, fontsize=13, fontweight="bold")
    for axes, quantity in zip(top.subplots(1, 2), ("loss", "accuracy")):
        draw(axes, runs, quantity)
    top.supxlabel(rest, fontsize=9)
    bottom.suptitle("Gates of some test images: how much of an input path goes where", fontsize=11)
    grid = bottom.subplots(len(chosen), len(gates) + 1, squeeze=False)
    for row, at in enumerate(chosen):
        grid[row, 0].imshow(images.test_x[at].permute(1, 2, 0).numpy())
        grid[row, 0].set_axis_off()
        grid[row, 0].set_title(f"label {labels[at]}, predicted {guesses[row]}", fontsize=8)
        for router, of_images in enumerate(gates):
            _bars(grid[row, router + 1], of_images[row].cpu())
        grid[row, 1].set_ylabel("gate", fontsize=7)
    for router, of_images in enumerate(gates):
        sizes = f"{of_images.shape[1]} → {of_images.shape[2]}"
        grid[0, router + 1].set_title(f"router {router + 1} ({sizes})", fontsize=9)
    outputs = gates[0].shape[2]
    handles = [Rectangle((0, 0), 1, 1, color=COLOURS[j % len(COLOURS)]) for j in range(outputs)]
    names = [f"to path {j + 1}" for j in range(outputs)]
    bottom.legend(handles, names, loc="outside lower center", ncols=outputs, fontsize=8)
    save(figure, path, dpi=110)


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
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for row, values in enumerate(table):
            for column, count in enumerate(values):
                dark = shares[row][column] > 0.5
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7,
                          color="white" if dark else "black")  # fmt: skip
    save(figure, path)
