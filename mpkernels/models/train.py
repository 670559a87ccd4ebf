"""Trains a network."""

from __future__ import annotations

import argparse
import ast
import difflib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import create, data
from .cli import add_classes, add_device, add_folder, add_workers, device_of, parser_for, run
from .data import DataSet
from .networks import registry
from .suited import options_for
from .training import checkpoint, parallel
from .training.loop import SAVE_EVERY, Interrupted, estimate, fit
from .training.recipe import CHOICES, Recipe, default_name, names, recipe_for
from .training.step import COMPILE_MODES, Trainer

# Values of the recipe: flag, field, type, help.
_VALUES: tuple[tuple[str, str, Any, str], ...] = (
    ("--epochs", "epochs", int, "the milestones move with them"),
    ("--batch-size", "batch_size", int, "images per update, on all processes together"),
    ("--lr", "learning_rate", float, "the largest learning rate"),
    ("--warm-up", "warm_up", int, "epochs in which the rate grows to --lr"),
    ("--weight-decay", "weight_decay", float, "factor of the weights added to their gradients"),
    ("--label-smoothing", "label_smoothing", float, "label smoothing of the cross-entropy"),
    ("--balance", "balance", float, "weight of the gates' imbalance in the loss"),
    ("--gate-entropy", "gate_entropy", float, "weight of the gates' entropy in the loss"),
    ("--clip", "clip", float, "largest norm that gradients keep"),
    ("--accumulate", "accumulate", int, "parts in which a batch goes through the network"),
    ("--ema", "ema", float, "decay of an average of the weights, which evaluation then uses"),
    ("--seed", "seed", int, "seed of weights, order and augmentation"),
)


_WORDS = {
    "schedule": "how the learning rate falls",
    "optimizer": "what updates the weights; adam wants a lower --lr",
    "weight_decay_on": "what decays",
    "layer_init": "how convolutions and dense layers start",
    "fill": "what takes the places that a shifted image leaves",
    "amp": "dtype of autocast",
}


def command_line() -> argparse.ArgumentParser:
    """The command line; defaults are the paper's recipe for the network."""
    parser = parser_for("train", __doc__, "basecnn_2_cc --data digits --epochs 4")
    known = registry.list_models()
    parser.add_argument("name", choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--data", required=True, choices=list(data.SETS), help="what to train on")
    add_folder(parser)
    parser.add_argument("--limit", type=int, help="number of training images (default: all)")
    add_classes(parser)
    add_workers(parser)
    parser.add_argument(
        "--recipe",
        help=f"a TOML file, or one of {', '.join(names())} (default: the paper's for the network)",
    )
    values = parser.add_argument_group("values of the recipe", "default: those of --recipe")
    for flag, field, kind, text in _VALUES:
        values.add_argument(flag, dest=field, type=kind, help=text)
    for field, words in _WORDS.items():
        flag = f"--{field.replace('_', '-')}"
        values.add_argument(flag, dest=field, choices=[*CHOICES[field]], help=words)
    parser.add_argument(
        "--routers", choices=("fused", "eager"), default="fused",
        help="the kernels, or the definition in plain PyTorch",
    )  # fmt: skip
    parser.add_argument("--channels-last", action="store_true", help="keep maps in channels_last")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE",
        help="any other option of the network; may be repeated",
    )  # fmt: skip
    parser.add_argument("--pretrained", type=Path, help="a run or checkpoint to start from")
    parser.add_argument(
        "--compile", nargs="?", const="default", choices=COMPILE_MODES, metavar="MODE",
        help=f"compile the network with torch.compile, mode {' or '.join(COMPILE_MODES)}",
    )  # fmt: skip
    parser.add_argument("--parallel", choices=parallel.KINDS, help="for torchrun")
    add_device(parser)
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/NAME-DATA-seedN)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument(
        "--extend", action="store_true",
        help="with --resume: to more --epochs than before; the milestones stay",
    )  # fmt: skip
    parser.add_argument(
        "--save-every", type=float, default=SAVE_EVERY, metavar="SECONDS",
        help="time between checkpoints within an epoch",
    )  # fmt: skip
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too")
    parser.add_argument("--dry-run", action="store_true", help="only tell what it would train")
    return parser


def _network_options(
    options: argparse.Namespace, images: DataSet, recipe: Recipe
) -> dict[str, Any]:
    """The options of the network.

    Raises:
        ValueError: an option is not NAME=VALUE, or the network has no such option.
    """
    known = registry.options(options.name)
    network = options_for(
        options.name, images, recipe, channels_last=options.channels_last, routers=options.routers
    )
    for text in options.option:
        option, _, value = text.partition("=")
        if option == "layer_init":
            raise ValueError("option layer_init is a value of the recipe: --layer-init")
        if option not in known or not value:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near and near[0] != option else ""
            raise ValueError(
                f"option must be NAME=VALUE with one of {', '.join(known)}, got {text!r}{hint}"
            )
        try:
            network[option] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            network[option] = value
    return network


def _about(
    options: argparse.Namespace, model: nn.Module, images: DataSet, recipe: Recipe, device: str
) -> str:
    """What is trained, on what, how and where."""
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    by = options.recipe or default_name(options.name, options.classes)
    return (
        f"{options.name}: {registry.about(options.name)}\n"
        f"{count:,} trainable parameters on {device}\n"
        f"{options.data}: {images.classes} classes, {images.train_count} training and "
        f"{images.test_count} test images of {images.size}x{images.size}\n"
        f"recipe {by}: {recipe.epochs} epochs, batches of {recipe.batch_size}, "
        f"rate {recipe.learning_rate}, seed {recipe.seed}"
    )


def _estimate(model: nn.Module, images: DataSet, recipe: Recipe, device: str) -> None:
    print(f"\n{recipe.as_toml()}")
    seconds = estimate(Trainer(model, images, recipe, parallel.Processes(device=device)))
    print(f"about {seconds / 3600:.2f} hours on {device}, by the first steps")


def train(options: argparse.Namespace) -> None:
    """Trains, and says what came out.

    Raises:
        DataMissing: the images are not there.
        ValueError: an option has a value it cannot have, or does not fit the others.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
        FloatingPointError: the loss is not finite.
    """
    device = device_of(options)
    values = {field: getattr(options, field) for _, field, _, _ in _VALUES}
    values.update({field: getattr(options, field) for field in _WORDS})
    recipe = recipe_for(options.name, options.recipe, options.classes, **values)
    folder = f"{options.name}-{options.data}-seed{recipe.seed}"
    out = options.out = options.out or Path("runs") / folder
    if recipe.amp == "fp16" and device != "cuda":
        raise ValueError("amp fp16 needs --device cuda; bf16 runs on both")
    images = data.load(
        options.data, options.data_dir, options.limit, options.classes, options.workers
    )
    network = _network_options(options, images, recipe)
    torch.manual_seed(recipe.seed)
    try:
        model = create(options.name, pretrained=options.pretrained, **network)
    except TypeError as error:  # an option of the network
        raise ValueError(str(error)) from error
    if options.dry_run:
        print(_about(options, model, images, recipe, device))
        _estimate(model, images, recipe, device)
        return
    resume = options.resume or (parallel.attempt() > 0 and checkpoint.file_of(out).exists())
    processes = parallel.start(options.parallel, device)
    if processes.rank == 0:
        print(_about(options, model, images, recipe, processes.device), file=sys.stderr)
    try:
        metrics = fit(
            model, images, recipe, out=out, resume=resume, extend=options.extend,
            processes=processes, compile=options.compile, save_every=options.save_every,
            names={"name": options.name, "data": options.data, "network": network},
            tensorboard=options.tensorboard,
        )  # fmt: skip
        parallel.wait()
    except Interrupted:
        print(f"\nsaved in {out}; go on with the same command and --resume", file=sys.stderr)
        raise
    finally:
        parallel.finish()
    if processes.rank == 0 and metrics:
        print(f"test accuracy {100 * metrics[-1]['test_accuracy']:.2f}%; results in {out}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status, see `models.cli.run`."""
    return run(command_line(), arguments, train)


if __name__ == "__main__":
    sys.exit(main())
