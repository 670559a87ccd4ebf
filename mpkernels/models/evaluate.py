"""Evaluates trained networks.

A run is a folder or a checkpoint; several are an ensemble, whose probabilities are averaged. Images
are normalised as the checkpoint says, and labels go by the names of the classes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .cli import add_device, device_of, parser_for, run
from .environment import environment
from .networks.ensemble import Ensemble
from .paper import ablation, pictures, scores
from .paper.labels import cell
from .paper.scores import predict
from .trained import add_images, images_of
from .training.checkpoint import file_of
from .training.files import write_json, write_text
from .training.weights import load_network

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


def _shares(part: Tensor, whole: Tensor) -> list[float | None]:
    """The quotients; None of nothing."""
    return [a / b if b else None for a, b in zip(part.tolist(), whole.tolist())]


def figures(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """All figures that depend on the probabilities alone.

    Recall is None for a class without images, precision for one that was never predicted.
    """
    table = scores.confusion(probabilities, labels)
    right, of_label, of_class = table.diagonal().double(), table.sum(1), table.sum(0)
    return {
        "images": len(labels),
        "loss": scores.loss(probabilities, labels),
        "top-1": scores.top(probabilities, labels, 1),
        "top-5": scores.top(probabilities, labels, 5),
        "calibration error": scores.calibration_error(probabilities, labels),
        "recall": _shares(right, of_label),
        "precision": _shares(right, of_class),
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
    for batch, times in result["milliseconds"].items():
        speed = 1e3 * int(batch) / times["median"]
        lines.append(
            f"| forward, batch of {batch} | {times['median']:.2f} ms "
            f"[{times['low']:.2f}, {times['high']:.2f}], {speed:.0f} images/s |"
        )
    lines += [
        "",
        f"calibration error: {scores.BINS} bins of equal width; milliseconds: median and 20th and "
        f"80th percentile of {ROUNDS} passes after {WARM_UP}, on {machine['device']}, "
        f"{machine['threads']} threads, torch {machine['torch']}, commit {machine['commit']}.",
        "", "| class | recall | precision | images |", "|---|---|---|---|",
    ]  # fmt: skip
    images = map(sum, result["confusion"])
    classes = map(cell, result["classes"])
    recall, precision = (
        ["-" if share is None else f"{share:.4f}" for share in result[name]]
        for name in ("recall", "precision")
    )
    for row in zip(classes, recall, precision, images):
        lines.append("| {} | {} | {} | {} |".format(*row))
    if "gates" in result:
        lines += ablation.markdown(result["gates"])
    return "\n".join([*lines, ""])


def command_line() -> argparse.ArgumentParser:
    """The command line."""
    parser = parser_for("evaluate", __doc__, "runs/basecnn_2_cc-digits-seed0 --ablate")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder or checkpoint")
    add_images(parser)
    parser.add_argument("--ten-crop", action="store_true", help="also on ten crops of each image")
    parser.add_argument(
        "--ablate", action="store_true",
        help="also with other gates (means, shuffled, uniform, argmax), in all routers and in each",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=128, help="crops at a time")
    add_device(parser)
    parser.add_argument("--out", type=Path, help="folder of the results (default: that of the run)")
    return parser


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of the runs.

    Raises:
        FileNotFoundError: a run does not exist.
        ValueError: the runs do not belong together or to the data set.
        DataMissing: the images are not there.
    """
    if options.batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {options.batch_size}")
    device = device_of(options)
    loaded = [load_network(path) for path in options.runs]
    name, images = images_of(options.runs, loaded, options)
    networks = [network for network, _ in loaded]
    model = (networks[0] if len(networks) == 1 else Ensemble(networks)).eval().to(device)
    result: dict[str, Any] = {}
    if options.ten_crop:
        crops, labels = predict(model, images, device, 10, options.batch_size)
        for count in (1, 5):
            result[f"10-crop top-{count}"] = scores.top(crops, labels, count)
    probabilities, labels = predict(model, images, device, 1, options.batch_size)
    result.update(figures(probabilities, labels))
    if options.ablate:
        result["gates"] = ablation.ablation(model, images, device, options.batch_size)
    (x, _), *_ = images.test_batches([torch.arange(min(options.batch_size, len(labels)))], device)
    return {
        "networks": [known["name"] for _, known in loaded],
        "runs": [str(file_of(path)) for path in options.runs],
        "data": name,
        "classes": list(images.names),
        "environment": environment(device),
        "milliseconds": {str(len(part)): latency(model, part) for part in (x[:1], x)},
        **result,
    }


def keep(folder: Path, result: dict[str, Any]) -> None:
    """Writes the figures, and the confusion matrix if matplotlib is installed."""
    write_text(folder / "evaluation.md", markdown(result))
    write_json(folder / "evaluation.json", result, indent=1)
    title = ", ".join(result["networks"])
    try:
        pictures.confusion(folder / "confusion.png", title, result["classes"], result["confusion"])
    except ImportError:
        print("matplotlib is not installed: confusion.png is not drawn", file=sys.stderr)


def _report(options: argparse.Namespace) -> None:
    result = evaluate(options)
    try:
        keep(options.out or file_of(options.runs[0]).parent, result)
    finally:  # also where nothing can be written
        print(markdown(result))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status, see `models.cli.run`."""
    return run(command_line(), arguments, _report)


if __name__ == "__main__":
    sys.exit(main())
