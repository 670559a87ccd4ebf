"""The picture of the demo: training, time, what gates differ by, and what they are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.demo.gates import (
    HARDLY,
    by_class,
    chance,
    contrast,
    dependence,
    deviations,
    widest,
    worth,
)
from benchmarks.demo.timing import PARTS, Times, in_words, ratios
from models.data import Images
from models.training.curves import draw, pyplot, save

# Colours that colour-blind people tell apart (Okabe and Ito).
DARK, LIGHT, MARK = "#0072B2", "#56B4E9", "#D55E00"
SHOWN = 14
RULES = {
    "mean": "each at its mean",
    "shuffled": "another image's",
    "uniform": "all even",
    "argmax": "the largest is 1, others 0",
}


def _ratio(axes: Any, part: str, of_rounds: list[float], ratio: dict[str, Any]) -> None:
    """The ratio of each round, with their median and 20-80 % range, beside 1."""
    low, median, high = (ratio[name] for name in ("low", "median", "high"))
    axes.axvline(1, color="black", linestyle="--", linewidth=1)
    axes.plot(of_rounds, [1] * len(of_rounds), "o", color=LIGHT, alpha=0.6, markersize=5)
    axes.plot([low, high], [0, 0], color=DARK, linewidth=5, solid_capstyle="butt")
    axes.plot([median], [0], "D", color=MARK, markersize=6)
    axes.set_ylim(-0.7, 1.6)
    axes.set_yticks([0, 1], ["20-80 %,\nmedian", "rounds"], fontsize=8)
    axes.tick_params("x", labelsize=8)
    axes.margins(x=0.08)
    axes.spines[["top", "right"]].set_visible(False)
    name = {"routers": "Routers", "step": "Training step"}[part]
    axes.set_title(f"{name}: {in_words(ratio)}", fontsize=10)


def _by_class(figure: Any, gates: list[Tensor], images: Images) -> None:
    """Mean gate of each class less that of all images, every gate to path 1 a row."""
    # Of two paths the gate to the second is the rest: what the first gains it loses.
    rows = torch.cat([by_class(of, images.test_y)[..., 0].T for of in gates])
    names = [f"{at + 1}: path {i + 1}" for at, of in enumerate(gates) for i in range(of.shape[1])]
    limit = max(HARDLY, float(rows.abs().max()))
    axes = figure.subplots()
    shown = axes.imshow(rows.numpy(), cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    for row, values in enumerate(rows.tolist()):
        for column, value in enumerate(values):
            dark = abs(value) > 0.6 * limit
            text = f"{value:+.2f}" if abs(value) >= 0.005 else "0"
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5,
                      color="white" if dark else "black")  # fmt: skip
    classes = images.test_y.unique().tolist()
    axes.set_xticks(range(len(classes)), [images.names[c] for c in classes], fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("digit", fontsize=9)
    axes.set_ylabel("router: path that it mixes", fontsize=9)
    bar = figure.colorbar(shown, ax=axes, pad=0.02)
    bar.set_label("mean gate of the digit less that of all images", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle("By digit: the share of a path that goes to path 1", fontsize=10)


def _worth(figure: Any, ablation: dict[str, Any]) -> None:
    """Accuracy with learned gates and with others; the lines are intervals of the change."""
    axes = figure.subplots()
    learned = 100 * ablation["accuracy"]
    axes.barh(0, learned, color=DARK, height=0.6)
    names = [f"learned\n{learned:.2f} %"]
    for at, (rule, name) in enumerate(RULES.items(), 1):
        row = contrast(ablation, rule)
        accuracy, low, high = (100 * row[of] for of in ("accuracy", "low", "high"))
        axes.barh(at, accuracy, color=LIGHT, height=0.6)
        axes.plot([learned + low, learned + high], [at, at], color="black", linewidth=1.5)
        names.append(f"{name}\n{accuracy:.2f} %, {chance(row)}")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 101)
    axes.axvline(learned, color="black", linestyle=":", linewidth=1)
    axes.tick_params("x", labelsize=8)
    axes.set_xlabel("test accuracy (%); lines: 95 % of the change", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    words = worth(ablation)
    figure.suptitle(words[0].upper() + words[1:], fontsize=10)


def _in_order(figure: Any, gates: list[Tensor], images: Images) -> None:
    """Test images from the least to the largest of the gate that strays most."""
    router, path = widest(gates)
    values = gates[router][:, path, 0]
    order = values.argsort()
    count = min(SHOWN, len(order))
    chosen = order[torch.linspace(0, len(order) - 1, count).round().long()].tolist()
    for axes, at in zip(figure.subplots(1, count, squeeze=False)[0], chosen):
        axes.imshow(images.test_x[at].permute(1, 2, 0).numpy())
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"{values[at]:.3f}", fontsize=8)
    figure.suptitle(
        f"{count} of {len(order)} test images in order of the gate that differs most, router "
        f"{router + 1} from path {path + 1} to path 1",
        fontsize=10,
    )


def drawn(title: str, images: Images, gates: list[Tensor], result: dict[str, Any]) -> Any:
    """The figure.

    Args:
        title: of the whole.
        images: the data.
        gates: of each router those of all test images, [N, m, 2].
        result: what demo.json holds.
    """
    figure = pyplot().figure(figsize=(11, 10.2), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(3.4, 4.8, 1.3), hspace=0.04)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    left, right = top.subfigures(1, 2)
    axes = left.subplots()
    draw(axes, result["runs"], "accuracy")
    axes.set_title("Training with either kind of routers", fontsize=10)
    times: Times = result["microseconds"]
    grid = right.subplots(2, 1)
    for one, part in zip(grid, PARTS):
        _ratio(one, part, ratios(times, part), result["ratios"][part])
    grid[-1].set_xlabel("times as fast fused as eager; dashed: equally fast", fontsize=9)
    ablation = result["ablation"]
    words = f"The gates {dependence(deviations(ablation))}"
    middle.suptitle(words, fontsize=11, fontweight="bold")
    left, right = middle.subfigures(1, 2, width_ratios=(1.35, 1))
    _by_class(left, gates, images)
    _worth(right, ablation)
    _in_order(bottom, gates, images)
    return figure


def picture(
    path: Path, title: str, images: Images, gates: list[Tensor], result: dict[str, Any]
) -> None:
    """Writes it as a PNG; see `drawn`."""
    save(drawn(title, images, gates, result), path, dpi=110)
