"""Measures how fast training images are read.

No network is in the way: this is what the readers of a data set can do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

import torch

from ..cli import add_classes, add_device, add_folder, device_of, parser_for, run
from .images import DataSet
from .sets import SETS, load

ROUNDS = 5


def rates(images: DataSet, batch_size: int, workers: int, device: str) -> list[float]:
    """Augmented training images per second, in each of `ROUNDS` rounds of several batches.

    Images are drawn with repetition, so that small sets are measured like large ones.
    """
    # Batches that workers read ahead before the clock starts would seem to take no time.
    ahead, count = 2 * workers + 1, 4 * max(1, workers)
    parts = torch.randint(images.train_count, (ahead + ROUNDS * count, batch_size))
    reader = images.train_batches(parts, 4, 0, 0, device)
    for _ in range(ahead):
        next(reader)
    per_second = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(count):
            next(reader)
        if device == "cuda":
            torch.cuda.synchronize()
        per_second.append(count * batch_size / (time.perf_counter() - begin))
    return per_second


def command_line() -> argparse.ArgumentParser:
    """The command line."""
    parser = parser_for("data", __doc__, "imagenet --data-dir DIR --workers 1 4 16")
    parser.add_argument("name", choices=list(SETS), help="the data set")
    add_folder(parser)
    add_classes(parser)
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0], help="processes that read imagenet"
    )
    parser.add_argument("--batch-size", type=int, default=128, help="images at a time")
    add_device(parser)
    return parser


def measure(options: argparse.Namespace) -> None:
    """Measures and prints.

    Raises:
        DataMissing: the images are not there.
        ValueError: an option has a value it cannot have.
    """
    device = device_of(options)
    print(f"images per second on {device}, batches of {options.batch_size}; "
          f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.2f}; "
          f"median [least, most] of {ROUNDS}")  # fmt: skip
    if options.batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {options.batch_size}")
    for workers in options.workers:
        images = load(options.name, options.data_dir, None, options.classes, workers)
        speeds = rates(images, options.batch_size, workers, device)
        print(f"{options.name}, {workers} workers: {statistics.median(speeds):.0f} "
              f"[{min(speeds):.0f}, {max(speeds):.0f}]")  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status, see `models.cli.run`."""
    return run(command_line(), arguments, measure)


if __name__ == "__main__":
    sys.exit(main())
