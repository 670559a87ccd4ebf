"""Labels pictures with a trained network.

Nothing but the run is needed: its checkpoint knows the classes and how images are prepared.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from .cli import add_device, device_of, parser_for, run
from .data import DataMissing, prepare
from .data.finding import pictures
from .paper.scores import probabilities_of
from .training.checkpoint import file_of
from .training.files import as_json, write_text
from .training.weights import load_network

Answer = dict[str, Any]


def command_line() -> argparse.ArgumentParser:
    """The command line."""
    parser = parser_for("predict", __doc__, "runs/basecnn_2_cc-folder-seed0 photo.jpg --top 3")
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder or checkpoint")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE",
        help="a picture, or a folder of which all pictures are labelled",
    )  # fmt: skip
    parser.add_argument("--top", type=int, default=1, help="how many classes, the likeliest first")
    parser.add_argument("--format", choices=("csv", "json"), default="csv", help="of the answers")
    parser.add_argument("--batch-size", type=int, default=64, help="pictures at a time")
    add_device(parser)
    parser.add_argument("--out", type=Path, help="a file for the answers (default: print them)")
    return parser


def answers(options: argparse.Namespace, unread: list[str]) -> Iterator[Answer]:
    """The likeliest classes of each picture; why others cannot be read is added to `unread`.

    Raises:
        FileNotFoundError: there is no run, or no picture of a name.
        ValueError: an option is out of range, or the run does not know its classes.
        FloatingPointError: the network returns numbers that are not finite.
    """
    for name in ("top", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(options, name)}")
    for image in options.images:
        if not image.is_file() and not image.is_dir():
            raise FileNotFoundError(f"there is no picture and no folder at {image}")
    network, known = load_network(options.run)
    preparation = known["preparation"]
    if preparation is None:
        raise ValueError(f"{file_of(options.run)} does not know the names of its classes")
    device = device_of(options)
    network.to(device)
    found = (path for image in options.images for path in pictures(image, unread))
    while paths := list(islice(found, options.batch_size)):
        read = []
        for path in paths:
            try:
                read.append((path, prepare(path, preparation)))
            except DataMissing as error:
                unread.append(str(error))  # the error itself would keep the picture
        if not read:
            continue
        with torch.no_grad():
            output = network(torch.stack([x for _, x in read]).to(device))
        probabilities = probabilities_of(output).cpu()
        if not probabilities.isfinite().all():
            some = ", ".join(str(path) for path, _ in read)
            raise FloatingPointError(f"the network's output is not finite for one of {some}")
        best = probabilities.topk(min(options.top, len(preparation.names)))
        for (path, _), *row in zip(read, best.values.tolist(), best.indices.tolist()):
            labels = [
                {"label": preparation.names[index], "probability": value}
                for value, index in zip(*row)
            ]
            yield {"image": str(path), "labels": labels}


def as_csv(found: list[Answer]) -> str:
    """A line for each picture and class."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("image", "rank", "label", "probability"))
    for answer in found:
        for rank, each in enumerate(answer["labels"], 1):
            table.writerow((answer["image"], rank, each["label"], f"{each['probability']:.6f}"))
    return text.getvalue()


def label(options: argparse.Namespace) -> int:
    """Labels pictures and writes the answers.

    Returns:
        2 if a picture could not be read, which is told; the others are labelled. Else 0.
    """
    unread: list[str] = []
    found = list(answers(options, unread))
    text = as_csv(found) if options.format == "csv" else as_json(found, indent=1) + "\n"
    if options.out:
        write_text(options.out, text)
    else:
        print(text, end="", flush=True)
    for reason in unread:
        print(f"error: {reason}", file=sys.stderr)
    return 2 if unread else 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status, see `models.cli.run`."""
    return run(command_line(), arguments, label)


if __name__ == "__main__":
    sys.exit(main())
