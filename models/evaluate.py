"""Evaluates trained networks: `python -m models.evaluate RUN [RUN ...]`.

A run's folder or checkpoint; several are an ensemble, whose members' probabilities are averaged.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import data, scores
from models.checkpoint import load_network, place, write_text, write_whole
from models.data import DataSet

ROUNDS = 15


def predict(model: nn.Module, images: DataSet, device: str, crops: int) -> tuple[Tensor, Tensor]:
    """Probabilities [N, classes], of several crops their mean, and labels [N], on the CPU."""
    parts = torch.arange(images.test_count).split(512 // crops)
    made, labels = [], []
    with torch.no_grad():
        for x, y in images.test_batches(parts, device, crops):
            output = model(x.flatten(0, 1) if crops > 1 else x)
            logits = output if isinstance(output, Tensor) else output[0]
            probabilities = logits.float().softmax(-1)
            if crops > 1:
                probabilities = probabilities.unflatten(0, (-1, crops)).mean(1)
            made.append(probabilities.cpu())
            labels.append(y.cpu())
    return torch.cat(made), torch.cat(labels)


def latency(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Milliseconds of a forward pass: the median, and the 20th and 80th percentile."""

    def once() -> float:
        begin = time.perf_counter()
        with torch.no_grad():
            model(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - begin)

    for _ in range(3):
        once()
    low, *_, high = statistics.quantiles(times := [once() for _ in range(ROUNDS)], n=5)
    return {"low": low, "median": statistics.median(times), "high": high}


def judge(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """All figures that follow from the probabilities."""
    table = scores.confusion(probabilities, labels)
    right, of_label, of_class = table.diagonal().double(), table.sum(1), table.sum(0)
    return {
        "images": len(labels),
        "loss": scores.loss(probabilities, labels),
        "top-1": scores.top(probabilities, labels, 1),
        "top-5": scores.top(probabilities, labels, 5),
        "calibration error": scores.calibration_error(probabilities, labels),
        "recall": (right / of_label.clamp_min(1)).tolist(),
        "precision": (right / of_class.clamp_min(1)).tolist(),
        "confusion": table.tolist(),
    }


def markdown(result: dict[str, Any]) -> str:
    """The figures as two tables."""
    lines = [f"# {', '.join(result['networks'])} on {result['data']}", "", "| | |", "|---|---|"]
    for name in ("images", "top-1", "top-5", "10-crop top-1", "10-crop top-5", "loss",
                 "calibration error"):  # fmt: skip
        if name in result:
            value = result[name]
            lines.append(f"| {name} | {value if name == 'images' else format(value, '.4f')} |")
    for batch, found in result["milliseconds"].items():
        speed = 1e3 * int(batch) / found["median"]
        lines.append(
            f"| batch of {batch} on {result['device']} | {found['median']:.2f} ms "
            f"[{found['low']:.2f}, {found['high']:.2f}], {speed:.0f} images/s |"
        )
    lines += ["", f"calibration error: {scores.BINS} bins of equal width; milliseconds: median and "
              f"20th and 80th percentile of {ROUNDS} forward passes.",
              "", "| class | recall | precision | images |", "|---|---|---|---|"]  # fmt: skip
    images = [sum(row) for row in result["confusion"]]
    for label, (recall, precision) in enumerate(zip(result["recall"], result["precision"])):
        lines.append(f"| {label} | {recall:.4f} | {precision:.4f} | {images[label]} |")
    return "\n".join([*lines, ""])


def picture(path: Path, title: str, table: list[list[int]]) -> None:
    """The confusion matrix as a PNG, rows in shares."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shares = [[count / max(sum(row), 1) for count in row] for row in table]
    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), label="share of the label")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("label")
    axes.set_title(title)
    if len(table) <= 20:
        for row, values in enumerate(table):
            for column, count in enumerate(values):
                dark = shares[row][column] > 0.5
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7,
                          color="white" if dark else "black")  # fmt: skip
    write_whole(path, lambda to: figure.savefig(to, dpi=120))
    plt.close(figure)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder or checkpoint")
    made.add_argument("--data", choices=list(data.SETS), help="default: what they were trained on")
    made.add_argument(
        "--data-dir", type=Path, help="where the images are, if not in the usual place"
    )
    made.add_argument("--classes", type=int, help="of imagenet, the first so many")
    made.add_argument("--workers", type=int, default=0, help="processes that read imagenet")
    made.add_argument("--ten-crop", action="store_true", help="also on ten crops of each image")
    made.add_argument("--batch-size", type=int, default=128, help="whose time is measured")
    made.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    made.add_argument("--out", type=Path, help="folder of the results, default that of the run")
    return made


def evaluate(given: argparse.Namespace) -> dict[str, Any]:
    """All figures.

    Raises:
        ValueError: the runs do not belong together, or not to the data set.
    """
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = [load_network(path) for path in given.runs]
    sets = {known.get("data") for _, known in loaded}
    if given.data is None and len(sets) > 1:
        raise ValueError(f"runs must be of one data set, got {', '.join(sorted(map(str, sets)))}")
    name = given.data or str(sets.pop())
    images = data.load(name, given.data_dir, classes=given.classes, workers=given.workers)
    for path, (_, known) in zip(given.runs, loaded):
        if known["network"]["num_classes"] != images.classes:
            raise ValueError(
                f"{place(path)} has {known['network']['num_classes']} classes, "
                f"{name} has {images.classes}"
            )
    networks = [network.to(device) for network, _ in loaded]
    made = [predict(network, images, device, 1) for network in networks]
    labels = made[0][1]
    found = judge(torch.stack([probabilities for probabilities, _ in made]).mean(0), labels)
    if given.ten_crop:
        crops = [predict(network, images, device, 10)[0] for network in networks]
        for count in (1, 5):
            found[f"10-crop top-{count}"] = scores.top(torch.stack(crops).mean(0), labels, count)
    (x, _), *_ = images.test_batches([torch.arange(min(given.batch_size, len(labels)))], device)
    together = _Together(networks)
    times = {str(len(part)): latency(together, part) for part in (x[:1], x)}
    return {"networks": [known["name"] for _, known in loaded], "data": name, "device": device,
            "milliseconds": times, **found}  # fmt: skip


class _Together(nn.Module):
    """Several networks, one after the other."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> list[Any]:
        return [network(x) for network in self.networks]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, or 2 for bad input."""
    given = parser().parse_args(arguments)
    try:
        result = evaluate(given)
    except (data.DataMissing, RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = given.out or place(given.runs[0]).parent
    text = markdown(result)
    write_text(out / "evaluation.md", text)
    write_text(out / "evaluation.json", json.dumps(result, indent=1))
    try:
        picture(out / "confusion.png", ", ".join(result["networks"]), result["confusion"])
    except ImportError:
        print("matplotlib is not installed: no picture of the confusion", file=sys.stderr)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
