"""Trains a network: `python -m models.train basecnn_2_cc --data digits`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import models
from models import data
from models.recipe import Recipe, recipe_for
from models.training import Interrupted, fit


def parser() -> argparse.ArgumentParser:
    """The command line; defaults are the paper's recipe."""
    paper = Recipe()
    made = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    made.add_argument("name", choices=models.list(), metavar="NAME", help=", ".join(models.list()))
    made.add_argument("--data", required=True, choices=list(data.SETS))
    made.add_argument(
        "--data-dir", type=Path, help="where the images are, if not in the usual place"
    )
    made.add_argument(
        "--epochs", type=int, help=f"default {paper.epochs}; milestones scale with it"
    )
    made.add_argument("--limit", type=int, help="use so many training images")
    made.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    made.add_argument("--batch-size", type=int, help=f"default {paper.batch_size}")
    made.add_argument("--lr", type=float, help=f"learning rate, default {paper.learning_rate}")
    made.add_argument("--routers", choices=("fused", "eager"), default="fused")
    made.add_argument("--channels-last", action="store_true")
    made.add_argument("--amp", choices=("off", "bf16", "fp16"), default="off")
    made.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    made.add_argument("--out", type=Path, help="default runs/NAME-DATA")
    made.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, 2 for bad input, 130 for Ctrl-C."""
    made = parser()
    given = made.parse_args(arguments)
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if given.amp == "fp16" and device != "cuda":
        made.error("--amp fp16 needs --device cuda; bf16 runs on both")
    out = given.out or Path("runs") / f"{given.name}-{given.data}"
    try:
        recipe = recipe_for(
            given.name,
            epochs=given.epochs,
            batch_size=given.batch_size,
            learning_rate=given.lr,
            seed=given.seed,
            amp=given.amp,
        )
        images = data.load(given.data, given.data_dir, given.limit)
        asked = {
            "num_classes": images.classes,
            "channels_last": given.channels_last,
            "routers": given.routers,
            "size": images.train_x.shape[-1],
        }
        known = models.options(given.name)
        options = {option: value for option, value in asked.items() if option in known}
        torch.manual_seed(given.seed)
        model = models.create(given.name, **options)
        names = {"name": given.name, "data": given.data, **options}
        metrics = fit(
            model, images, recipe, device=device, out=out, resume=given.resume, names=names
        )
    except Interrupted:
        print(f"\nsaved in {out}; go on with the same command and --resume", file=sys.stderr)
        return 130
    except (data.DataMissing, ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        from models.curves import plot

        plot(out / "curves.png", f"{given.name} on {given.data}", metrics)
    except ImportError:
        print("matplotlib is not installed: no picture of the curves", file=sys.stderr)
    if metrics:
        print(f"test accuracy {100 * metrics[-1]['test_accuracy']:.2f}%; results in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
