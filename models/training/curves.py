"""Loss and accuracy over the epochs, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .files import write_whole

Metrics = list[dict[str, float]]


def draw(axes: Any, runs: dict[str, Metrics], quantity: str) -> None:
    """Draws training (dashed) and test (solid) curves of "loss" or "accuracy" of each run."""
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
    """Writes the curves of one run as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    for at, quantity in enumerate(("loss", "accuracy")):
        draw(axes[at], {"": metrics}, quantity)
    write_whole(path, lambda to: figure.savefig(to, dpi=120))
    plt.close(figure)
