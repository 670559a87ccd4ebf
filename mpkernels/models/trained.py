"""The images of trained networks, as these see them: for commands that take runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from torch import nn

from . import data
from .cli import add_classes, add_folder, add_workers
from .data import DataSet, Preparation
from .training.checkpoint import file_of
from .training.weights import num_classes

Loaded = list[tuple[nn.Module, dict[str, Any]]]


def add_images(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose the images."""
    parser.add_argument("--data", choices=list(data.SETS), help="which images (default: the run's)")
    add_folder(parser)
    add_classes(parser)
    add_workers(parser)
    parser.add_argument(
        "--part", choices=("val", "test"), help="of folders that hold both (default: test)"
    )


def _name_of(options: argparse.Namespace, loaded: Loaded) -> str:
    """The data set that the runs, or else the user, name.

    Raises:
        ValueError: there is none, or there are several.
    """
    sets = {known["data"] for _, known in loaded if known.get("data")}
    if options.data:
        sets.add(options.data)
    if len(sets) != 1:
        names = ", ".join(sorted(sets)) or "none; name it with --data"
        raise ValueError(f"runs must be trained on one data set, which --data must be, got {names}")
    return str(sets.pop())


def _preparation(runs: list[Path], loaded: Loaded) -> Preparation | None:
    """How images become what all of the runs see; None if no checkpoint knows it.

    Raises:
        ValueError: two runs see images in different ways, or tell different classes.
    """
    first: Preparation | None = loaded[0][1]["preparation"]
    for path, (_, known) in zip(runs, loaded):
        held = known["preparation"]
        if held is None or first is None:
            if held is not first:
                raise ValueError(f"{file_of(path)} and {file_of(runs[0])}: only one knows classes")
            continue
        for part, value in held.as_dict().items():
            if value != (wanted := first.as_dict()[part]):
                raise ValueError(
                    f"runs must see the same images: {part} must be {wanted} as in "
                    f"{file_of(runs[0])}, {file_of(path)} has {value}"
                )
    return first


def images_of(runs: list[Path], loaded: Loaded, options: argparse.Namespace) -> tuple[str, DataSet]:
    """The name of the runs' data set, and the set, as the runs see it.

    Args:
        runs: folders or checkpoints.
        loaded: what `load_network` gave for each.
        options: of a command line with `add_images`.

    Raises:
        ValueError: the runs have different data sets, classes or preparations, or another number
            of classes than the set.
    """
    name = _name_of(options, loaded)
    preparation = _preparation(runs, loaded)
    if preparation is None:
        print(
            f"{file_of(runs[0])} knows neither its classes' names nor its normalisation: "
            "both are taken from the data",
            file=sys.stderr,
        )
    images = data.load(
        name, options.data_dir, classes=options.classes, workers=options.workers,
        part=options.part, preparation=preparation,
    )  # fmt: skip
    for path, (_, known) in zip(runs, loaded):
        classes = num_classes(known["name"], known)
        if classes != images.classes:
            hint = "; --classes takes the first so many" if name == "imagenet" else ""
            raise ValueError(
                f"{file_of(path)} has {classes} classes, {name} has {images.classes}{hint}"
            )
    return name, images
