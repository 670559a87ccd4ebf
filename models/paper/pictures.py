"""One picture of a training: curves, and the gates of some test images as bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data import Images, normalise
from ..training.curves import Metrics, draw
from ..training.files import write_whole

SHOWN = 6
# None of them the colour of a curve: these tell output paths apart, not runs.
COLOURS = ("#2a9d8f", "#8e6bbf", "#d1495b", "#8d99ae")


def _bars(axes: Any, gates: torch.Tensor) -> None:
    """Gates [m, n] of one image at one router: a group of bars for each input path."""
    inputs, outputs = gates.shape
    width = 0.8 / outputs
    for j in range(outputs):
        at = [i + (j - (outputs - 1) / 2) * width for i in range(inputs)]
        bars = axes.bar(at, gates[:, j].tolist(), width, color=COLOURS[j % len(COLOURS)])
        axes.bar_label(bars, fmt="%.2f", fontsize=6.5, padding=1)
    # An even split, which is where gates start.
    axes.axhline(1 / outputs, color="black", linewidth=0.6, linestyle=":")
    axes.set_ylim(0, 1.25)
    axes.set_xlim(-0.6, inputs - 0.4)
    axes.set_xticks(range(inputs), [f"from path {i + 1}" for i in range(inputs)], fontsize=7)
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"], fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def picture(
    path: Path,
    images: Images,
    runs: dict[str, Metrics],
    model: nn.Module,
    device: str,
    title: str,
) -> None:
    """Writes the picture as a PNG.

    Args:
        path: of the PNG.
        images: the data; the first images of the test set with different labels are shown.
        runs: metrics of each run by name.
        model: returns its gates, as networks with routers do.
        device: where the model is.
        title: of the whole, one line or several.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    labels = images.test_y.tolist()
    chosen = [labels.index(label) for label in sorted(set(labels))][:SHOWN]
    with torch.no_grad():
        logits, gates = model.eval()(
            normalise(images, images.test_x[chosen].to(device)), return_gates=True
        )
    guesses = logits.argmax(1).tolist()
    height = 1.3 * len(chosen) + 0.7
    figure = plt.figure(figsize=(12, 4 + height), layout="constrained")
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
        for router, found in enumerate(gates):
            _bars(grid[row, router + 1], found[row].cpu())
        grid[row, 1].set_ylabel("gate", fontsize=7)
    for router, found in enumerate(gates):
        sizes = f"{found.shape[1]} → {found.shape[2]}"
        grid[0, router + 1].set_title(f"router {router + 1} ({sizes})", fontsize=9)
    outputs = gates[0].shape[2]
    handles = [Rectangle((0, 0), 1, 1, color=COLOURS[j % len(COLOURS)]) for j in range(outputs)]
    names = [f"to path {j + 1}" for j in range(outputs)]
    bottom.legend(handles, names, loc="outside lower center", ncols=outputs, fontsize=8)
    write_whole(path, lambda to: figure.savefig(to, dpi=110))
    plt.close(figure)
