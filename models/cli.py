"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Adds --data-dir."""
    parser.add_argument(
        "--data-dir", type=Path, help="where the images are, if not in the usual place"
    )


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Adds --classes."""
    parser.add_argument("--classes", type=int, help="use only the first classes of imagenet")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Adds --workers."""
    parser.add_argument("--workers", type=int, default=0, help="processes that read imagenet")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds --device."""
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")


def device_of(options: argparse.Namespace) -> str:
    """The device that --device names; by default a GPU if there is one."""
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")
