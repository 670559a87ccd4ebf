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

import models

from . import data
from .data import DataSet
from .networks.ensemble import Ensemble
from .paper import scores
from .paper.scores import predict
from .training.checkpoint import file_of, load_network
from .training.files import write_text, write_whole
from .training.runs import environment

WARM_UP, ROUNDS = 3, 15


def latency(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Milliseconds of a forward pass: the median, and the 20th and 80th percentile."""

    def once() -> float:
        begin = time.perf_counter()
        with torch.no_grad():
            model(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - begin)

    for _ in range(WARM_UP):
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
    machine = result["environment"]
    for batch, found in result["milliseconds"].items():
        speed = 1e3 * int(batch) / found["median"]
        lines.append(
            f"| forward, batch of {batch} | {found['median']:.2f} ms "
            f"[{found['low']:.2f}, {found['high']:.2f}], {speed:.0f} images/s |"
        )
    lines += [
        "",
        f"calibration error: {scores.BINS} bins of equal width; milliseconds: median and 20th and "
        f"80th percentile of {ROUNDS} passes after {WARM_UP}, on {machine['device']}, "
        f"{machine['threads']} threads, torch {machine['torch']}, commit {machine['commit']}.",
        "", "| class | recall | precision | images |", "|---|---|---|---|",
    ]  # fmt: skip
    images = map(sum, result["confusion"])
    for row in zip(result["classes"], result["recall"], result["precision"], images):
        lines.append("| {} | {:.4f} | {:.4f} | {} |".format(*row))
    return "\n".join([*lines, ""])


def picture(path: Path, title: str, names: list[str], table: list[list[int]]) -> None:
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
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
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
    made.add_argument("--data", choices=list(data.SETS), help="where a run does not name its own")
    made.add_argument(
        "--data-dir", type=Path, help="where the images are, if not in the usual place"
    )
    made.add_argument("--classes", type=int, help="of imagenet, the first so many")
    made.add_argument("--workers", type=int, default=0, help="processes that read imagenet")
    made.add_argument("--ten-crop", action="store_true", help="also on ten crops of each image")
    made.add_argument(
        "--batch-size", type=int, default=128, help="crops at a time, default %(default)s"
    )
    made.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    made.add_argument("--out", type=Path, help="folder of the results, default that of the run")
    return made


Loaded = list[tuple[nn.Module, dict[str, Any]]]


def _images(given: argparse.Namespace, loaded: Loaded) -> tuple[str, DataSet]:
    """The data set of all runs, by name.

    Raises:
        ValueError: they are not of one, or have another number of classes.
    """
    sets = {known["data"] for _, known in loaded if known.get("data")}
    if given.data:
        sets.add(given.data)
    if len(sets) != 1:
        found = ", ".join(sorted(sets)) or "none; name it with --data"
        raise ValueError(f"runs must be trained on one data set, which --data must be, got {found}")
    name = sets.pop()
    images = data.load(name, given.data_dir, classes=given.classes, workers=given.workers)
    for path, (_, known) in zip(given.runs, loaded):
        classes = {**models.options(known["name"]), **known["network"]}["num_classes"]
        if classes != images.classes:
            hint = "; --classes takes the first so many" if name == "imagenet" else ""
            raise ValueError(
                f"{file_of(path)} has {classes} classes, {name} has {images.classes}{hint}"
            )
    return name, images


def evaluate(given: argparse.Namespace) -> dict[str, Any]:
    """All figures.

    Raises:
        FileNotFoundError, ValueError: a run is not there, or they do not belong together or to the
            data set.
        DataMissing: the data are not there.
    """
    if given.batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {given.batch_size}")
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = [load_network(path) for path in given.runs]
    name, images = _images(given, loaded)
    networks = [network for network, _ in loaded]
    model = (networks[0] if len(networks) == 1 else Ensemble(networks)).eval().to(device)
    found: dict[str, Any] = {}
    if given.ten_crop:
        crops, labels = predict(model, images, device, 10, given.batch_size)
        for count in (1, 5):
            found[f"10-crop top-{count}"] = scores.top(crops, labels, count)
    probabilities, labels = predict(model, images, device, 1, given.batch_size)
    found.update(judge(probabilities, labels))
    (x, _), *_ = images.test_batches([torch.arange(min(given.batch_size, len(labels)))], device)
    return {
        "networks": [known["name"] for _, known in loaded],
        "runs": [str(file_of(path)) for path in given.runs],
        "data": name,
        "classes": list(images.names),
        "environment": environment(device),
        "milliseconds": {str(len(part)): latency(model, part) for part in (x[:1], x)},
        **found,
    }


def keep(folder: Path, result: dict[str, Any]) -> None:
    """Writes the figures, and the picture if matplotlib is there."""
    write_text(folder / "evaluation.md", markdown(result))
    write_text(folder / "evaluation.json", json.dumps(result, indent=1))
    title = ", ".join(result["networks"])
    try:
        picture(folder / "confusion.png", title, result["classes"], result["confusion"])
    except ImportError:
        print("matplotlib is not installed: no picture of the confusion", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, 2 for bad input, 130 for Ctrl-C."""
    given = parser().parse_args(arguments)
    try:
        result = evaluate(given)
        keep(given.out or file_of(given.runs[0]).parent, result)
    except KeyboardInterrupt:
        return 130
    except (data.DataMissing, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
