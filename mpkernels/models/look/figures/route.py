"""The way of single images through the network: the paper's Figure 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...paper.labels import one_line
from ...training.curves import pyplot
from ..recorded.log import Log, relative
from .canvas import blank, keep, picture

WIDE, HIGH = 0.34, 0.5  # of a box, in units of the distance between columns and between paths


def spread(log: Log) -> float:
    """How far gates lie from their means: the 99th percentile over all gates and images."""
    every = [np.abs(g - g.mean(0)).ravel() for g in log.each_router("gates")]
    return max(float(np.quantile(np.concatenate(every), 0.99)), 1e-6)


def _boxes(axes: Any, x: float, shares: np.ndarray, colours: Any) -> None:
    from matplotlib.patches import Rectangle

    for path, share in enumerate(shares):
        colour = "white" if np.isnan(share) else colours(float(np.clip(share, 0, 1)))
        corner = (x - WIDE / 2, -path - HIGH / 2)
        axes.add_patch(Rectangle(corner, WIDE, HIGH, facecolor=colour, edgecolor="0.3", lw=0.8))


def diagram(axes: Any, log: Log, image: int, centred: float | None) -> None:
    """Draws the routers from left to right: inputs, gates, outputs, and the parts between.

    Boxes are the redder the more of the activation at their depth they have. Lines are as wide and
    as blue as their gate; with `centred`, as their gate less its mean over the test images is
    large: purple above, brown below, `centred` at full width.
    """
    maps = pyplot().colormaps
    gates, inputs, outputs = log.each_router("gates"), log.each_router("inputs"), log.outputs()
    for at, router in enumerate(log.routers):
        left, right = 2 * at, 2 * at + 1
        for i in range(router["inputs"]):
            for j in range(router["outputs"]):
                value = float(gates[at][image, i, j])
                if centred is None:
                    size, colour = value, maps["Blues"](value)
                else:
                    value = (value - float(gates[at][:, i, j].mean())) / centred
                    size = min(abs(value), 1.0)
                    colour = maps["PuOr"](0.5 + 0.5 * float(np.clip(value, -1, 1)))
                xs, ys = (left + WIDE / 2, right - WIDE / 2), (-i, -j)
                axes.plot(
                    xs, ys, color=colour, lw=0.4 + 5 * size, solid_capstyle="butt", zorder=size
                )
        _boxes(axes, left, relative(inputs[at][image : image + 1])[0], maps["Reds"])
        _boxes(axes, right, relative(outputs[at][image : image + 1])[0], maps["Reds"])
        if at + 1 < len(log.routers):
            for path in range(log.routers[at + 1]["inputs"]):
                ends = (right + WIDE / 2, right + 1 - WIDE / 2)
                axes.plot(ends, (-path, -path), color="0.75", lw=1, zorder=-1)
        axes.text(left + 0.5, 0.75, str(at + 1), ha="center", va="center", fontsize=8)
    most = max(max(router["inputs"], router["outputs"]) for router in log.routers)
    axes.set_xlim(-0.5, 2 * len(log.routers) - 0.5)
    axes.set_ylim(0.5 - most, 1)
    blank(axes)


def draw(log: Log, folder: Path, images: list[int]) -> Any:
    """Draws route.png of these images, one below another: as it is, and less the mean.

    Raises:
        ValueError: the log has no pixels of an image.
    """
    pictures, route = log.of("pictures"), log.of("route")
    held = pictures["indices"].tolist()
    if missing := [image for image in images if image not in held]:
        raise ValueError(f"images: the log holds no pixels of {missing[0]}")
    plt, scale, classes = pyplot(), spread(log), log.about["classes"]
    paths = max(max(router["inputs"], router["outputs"]) for router in log.routers)
    high = 0.7 + 0.55 * paths
    figure = plt.figure(figsize=(12, high * len(images) + 1.0), layout="constrained")
    grid = figure.add_gridspec(len(images), 3, width_ratios=(high, 5, 5))
    shares = [[relative(m) for m in of] for of in (log.each_router("inputs"), log.outputs())]
    rows = []
    for row, image in enumerate(images):
        axes = [figure.add_subplot(grid[row, column]) for column in range(3)]
        picture(axes[0], pictures["pixels"][held.index(image)])
        label, said = (one_line(classes[route[key][image]]) for key in ("labels", "predicted"))
        right = "" if label == said else f"\nseen as {said}"
        axes[0].set_xlabel(f"{label}{right}\n{100 * route['confidence'][image]:.0f} %", fontsize=8)
        diagram(axes[1], log, image, None)
        diagram(axes[2], log, image, scale)
        if row == 0:
            axes[1].set_title("gates", fontsize=9)
            axes[2].set_title("gates less their means", fontsize=9)
        for at, gates in enumerate(log.each_router("gates")):
            for (i, j), gate in np.ndenumerate(gates[image]):
                off = gate - gates[:, i, j].mean()
                ends = shares[0][at][image, i], shares[1][at][image, j]
                rows.append((image, label, at + 1, i + 1, j + 1, gate, off, *ends))
    below = figure.axes[1::3], figure.axes[2::3]
    for axes_of, (name, low, most, words) in zip(
        below, (("Blues", 0, 1, "gate"), ("PuOr", -scale, scale, "gate less its mean"))
    ):
        colours = plt.cm.ScalarMappable(plt.Normalize(low, most), name)
        figure.colorbar(colours, ax=axes_of, orientation="horizontal", label=words,
                        fraction=0.05, aspect=50, shrink=0.85)  # fmt: skip
    head = ("image", "class", "router", "input", "output", "gate", "less its mean",
            "share of the input", "share of the output")  # fmt: skip
    keep(figure, folder, "route", head, rows)
    return figure
