"""One picture of a training: curves, and the gates of some test images as bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.checkpoint import write_whole
from models.curves import Metrics, draw
from models.data import Images, normalise

SHOWN = 6
COLOURS = ("#3b6fb6", "#e08a2e", "#4f9d5d", "#a05195")


def _bars(axes: Any, gates: torch.Tensor, title: str) -> None:
    """Gates [m, n] of one image at one router: a group of bars for each input path."""
    inputs, outputs = gates.shape
    width = 0.8 / outputs
    for j in range(outputs):
        at = [i + (j - (outputs - 1) / 2) * width for i in range(inputs)]
        axes.bar(at, gates[:, j].tolist(), width, color=COLOURS[j % len(COLOURS)])
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.6, inputs - 0.4)
    axes.set_xticks(range(inputs), [f"from {i + 1}" for i in range(inputs)], fontsize=7)
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"], fontsize=7)
    axes.set_title(title, fontsize=8)


def picture(
    path: Path,
    images: Images,
    runs: dict[str, Metrics],
    model: nn.Module,
    device: str,
    conditions: str,
) -> None:
    """Writes the picture as a PNG.

    Args:
        path: of the PNG.
        images: the data; the first images of the test set with different labels are shown.
        runs: metrics of each run by name.
        model: returns its gates, as networks with routers do.
        device: where the model is.
        conditions: printed below the title.
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
    figure = plt.figure(figsize=(12, 3.4 + 1.35 * len(chosen)), layout="constrained")
    figure.suptitle(f"Fused and eager routers\n{conditions}", fontsize=11)
    top, bottom = figure.subfigures(2, 1, height_ratios=(3, 1.35 * len(chosen)))
    for axes, quantity in zip(top.subplots(1, 2), ("loss", "accuracy")):
        draw(axes, runs, quantity)
    shown = len(gates)
    grid = bottom.subplots(len(chosen), shown + 1, squeeze=False)
    for row, at in enumerate(chosen):
        grid[row, 0].imshow(images.test_x[at].permute(1, 2, 0).numpy())
        grid[row, 0].set_axis_off()
        grid[row, 0].set_title(f"label {labels[at]}, predicted {guesses[row]}", fontsize=8)
        for router in range(shown):
            _bars(grid[row, router + 1], gates[router][row].cpu(), f"router {router + 1}")
    outputs = gates[0].shape[2]
    handles = [Rectangle((0, 0), 1, 1, color=COLOURS[j % len(COLOURS)]) for j in range(outputs)]
    names = [f"gate to path {j + 1}" for j in range(outputs)]
    bottom.legend(handles, names, loc="outside lower center", ncols=outputs, fontsize=8)
    write_whole(path, lambda to: figure.savefig(to, dpi=110))
    plt.close(figure)
