"""Trains a network: `python -m models.train basecnn_2_cc --data digits`."""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models

from . import data
from .data import DataSet
from .networks.registry import about
from .training import checkpoint, parallel
from .training.loop import SAVE_EVERY, Interrupted, estimate, fit
from .training.recipe import Recipe, names, recipe_for
from .training.step import COMPILE_MODES, Trainer

# Of the recipe: flag, field, type, help.
_VALUES: tuple[tuple[str, str, Any, str], ...] = (
    ("--epochs", "epochs", int, "milestones move with them"),
    ("--batch-size", "batch_size", int, "images an update, on all processes together"),
    ("--lr", "learning_rate", float, "before the first milestone"),
    ("--weight-decay", "weight_decay", float, "of SGD"),
    ("--label-smoothing", "label_smoothing", float, "of the cross-entropy"),
    ("--clip", "clip", float, "largest norm of the gradients"),
    ("--accumulate", "accumulate", int, "parts in which a batch goes through the network"),
    ("--ema", "ema", float, "decay of an average of the weights, which is then evaluated"),
    ("--seed", "seed", int, "of weights, order and augmentation"),
)


def parser() -> argparse.ArgumentParser:
    """The command line; defaults are the paper's recipe for the network."""
    made = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    made.add_argument("name", choices=models.list(), metavar="NAME", help=", ".join(models.list()))
    made.add_argument("--data", required=True, choices=list(data.SETS))
    made.add_argument(
        "--data-dir", type=Path, help="where the images are, if not in the usual place"
    )
    made.add_argument("--limit", type=int, help="use so many training images")
    made.add_argument("--classes", type=int, help="of imagenet, the first so many")
    made.add_argument("--workers", type=int, default=0, help="processes that read imagenet")
    made.add_argument("--recipe", help=f"a TOML file, or one of {', '.join(names())}")
    for flag, field, kind, text in _VALUES:
        made.add_argument(flag, dest=field, type=kind, help=text)
    made.add_argument("--amp", choices=("off", "bf16", "fp16"))
    made.add_argument("--routers", choices=("fused", "eager"), default="fused")
    made.add_argument("--channels-last", action="store_true")
    made.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE",
        help="any other option of the network, several times if need be",
    )  # fmt: skip
    made.add_argument("--pretrained", type=Path, help="a run or checkpoint to start from")
    made.add_argument(
        "--compile", nargs="?", const="default", choices=COMPILE_MODES, metavar="MODE",
        help=f"let torch.compile make the code, in one of the modes {', '.join(COMPILE_MODES)}",
    )  # fmt: skip
    made.add_argument("--parallel", choices=parallel.KINDS, help="under torchrun")
    made.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    made.add_argument("--out", type=Path, help="the run's folder, default runs/NAME-DATA")
    made.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    made.add_argument(
        "--save-every", type=float, default=SAVE_EVERY, metavar="SECONDS",
        help="between checkpoints within an epoch, default %(default)s",
    )  # fmt: skip
    made.add_argument("--tensorboard", action="store_true", help="write its events too")
    made.add_argument("--dry-run", action="store_true", help="tell what would be trained, how long")
    return made


def _options(given: argparse.Namespace, images: DataSet) -> dict[str, Any]:
    """With which the network is made.

    Raises:
        ValueError: an option is not written as NAME=VALUE, or the network has none of its name.
    """
    known = models.options(given.name)
    asked: dict[str, Any] = {
        "num_classes": images.classes,
        "channels_last": given.channels_last,
        "routers": given.routers,
        "size": images.size,
    }
    found = {option: value for option, value in asked.items() if option in known}
    for text in given.option:
        option, _, value = text.partition("=")
        if option not in known or not value:
            raise ValueError(
                f"option must be NAME=VALUE with one of {', '.join(known)}, got {text!r}"
            )
        try:
            found[option] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[option] = value
    return found


def _tell(
    given: argparse.Namespace, model: nn.Module, images: DataSet, recipe: Recipe, device: str
) -> None:
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{given.name}: {about(given.name)}\n{count:,} trainable parameters")
    print(f"{images.train_count} training and {images.test_count} test images\n")
    print(recipe.as_toml())
    seconds = estimate(Trainer(model, images, recipe, parallel.Processes(device=device)))
    print(f"about {seconds / 3600:.2f} hours on {device}, by the first steps")


def _run(given: argparse.Namespace, device: str, out: Path) -> list[dict[str, float]] | None:
    values = {field: getattr(given, field) for _, field, _, _ in _VALUES}
    recipe = recipe_for(given.name, given.recipe, given.classes, amp=given.amp, **values)
    if recipe.amp == "fp16" and device != "cuda":
        raise ValueError("amp fp16 needs --device cuda; bf16 runs on both")
    images = data.load(given.data, given.data_dir, given.limit, given.classes, given.workers)
    network = _options(given, images)
    torch.manual_seed(recipe.seed)
    model = models.create(given.name, pretrained=given.pretrained, **network)
    if given.dry_run:
        _tell(given, model, images, recipe, device)
        return None
    resume = given.resume or (parallel.attempt() > 0 and checkpoint.file_of(out).exists())
    processes = parallel.start(given.parallel, device)
    try:
        metrics = fit(
            model, images, recipe, out=out, resume=resume, processes=processes,
            names={"name": given.name, "data": given.data, "network": network},
            compile=given.compile, save_every=given.save_every, tensorboard=given.tensorboard,
        )  # fmt: skip
        parallel.wait()
        return metrics if processes.rank == 0 else None
    finally:
        parallel.finish()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        the exit status: 0, 2 for bad input or a loss that is not finite, 130 for Ctrl-C, 143 for
        SIGTERM.
    """
    given = parser().parse_args(arguments)
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    out = given.out or Path("runs") / f"{given.name}-{given.data}"
    try:
        metrics = _run(given, device, out)
    except Interrupted as stop:
        print(f"\nsaved in {out}; go on with the same command and --resume", file=sys.stderr)
        return 128 + stop.signal
    except (data.DataMissing, TypeError, ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if metrics:
        print(f"test accuracy {100 * metrics[-1]['test_accuracy']:.2f}%; results in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
