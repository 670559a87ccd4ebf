"""Pictures of loss and accuracy over the epochs, and how any picture is drawn and saved."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from .files import write_whole

Metrics = list[dict[str, float]]


def pyplot() -> Any:
    """matplotlib.pyplot, which draws into files here and needs no screen; a $ is just a $.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False
    import matplotlib.pyplot as plt

    return plt


def save(figure: Any, path: Path, dpi: int = 120, **options: Any) -> None:
    """Writes a figure as a whole file and closes it. Letters that no font has become boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        write_whole(path, lambda to: figure.savefig(to, dpi=dpi, **options))
    pyplot().close(figure)


def draw(axes: Any, runs: dict[str, Metrics], quantity: str) -> None:
    """Draws the "loss" or "accuracy" of each run: dashed in training, solid on the test set."""
    for at, (name, metrics) in enumerate(runs.items()):
        epochs = [line["epoch"] for line in metrics]
        scale = 100 if quantity == "accuracy" else 1
        for part, style in (("train", "--"), ("test", "-")):
            values = [scale * line[f"{part}_{quantity}"] for line in metrics]
            label = f"{name}, {part}" if name else part
            axes.plot(epochs, values, style, color=f"C{at}", label=label, marker=".", alpha=0.9)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("accuracy (%)" if quantity == "accuracy" else "loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def plot(path: Path, title: str, metrics: Metrics) -> None:
    """Draws the curves of one run as a PNG."""
    figure, axes = pyplot().subplots(1, 2, figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    for at, quantity in enumerate(("loss", "accuracy")):
        draw(axes[at], {"": metrics}, quantity)
    save(figure, path)
