"""Trains a table of the paper and reports on it.

All rows run their first trial before any runs its second, so that a comparison stopped early is
still fair. The same command goes on where it stopped; `--report-only` writes the report from the
trials that are there.

`--scale S` makes a small comparison of the same shape: all widths times S (at least 4; gates keep
their hidden units), S of the training images, and S squared of the epochs, with the milestones of
the learning rate at the same fractions.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import cli, create, data
from .cli import add_device, add_folder, device_of, parser_for
from .data import DataSet
from .networks import registry
from .paper import report
from .paper.scores import predict
from .paper.suites import ENSEMBLES, LONGER, SUITES, Entry
from .resumable import STOPPED, remember
from .suited import options_for
from .training.checkpoint import file_of
from .training.files import write_json, write_whole
from .training.locks import locked
from .training.loop import fit
from .training.recipe import Recipe, recipe_for


@dataclass(frozen=True)
class Plan:
    """What all runs of one comparison share.

    Args:
        suite: one of `SUITES`.
        data: name of the data set.
        scale: factor on widths, images and epochs, see this module.
        epochs: number of epochs per trial.
        images: number of training images per trial.
        channels_last: memory format of the maps; it changes only rounding.
        recipe: a name or a TOML file; None takes the paper's for each network.
    """

    suite: str
    data: str
    scale: float
    epochs: int
    images: int
    channels_last: bool
    recipe: str | None = None


def scaled(options: dict[str, Any], scale: float) -> dict[str, Any]:
    """The options that make a network narrower.

    Raises:
        ValueError: no option of the network sets its widths.
    """
    if scale == 1:
        return {}
    if "stages" not in options:
        raise ValueError("its widths cannot be scaled")

    def width(channels: int) -> int:
        return max(4, round(channels * scale))

    narrow: dict[str, Any] = {"stages": tuple(tuple(map(width, s)) for s in options["stages"])}
    if "dense" in options:
        narrow["dense"] = tuple(map(width, options["dense"]))
    return narrow


def options_of(name: str, plan: Plan, images: DataSet, recipe: Recipe) -> dict[str, Any]:
    """The options of a row's network.

    Raises:
        ValueError: the network cannot be built for this comparison.
    """
    common = options_for(name, images, recipe, channels_last=plan.channels_last)
    return {**common, **scaled(registry.options(name), plan.scale)}


def train(
    name: str, trial: int, plan: Plan, recipe: Recipe, images: DataSet, device: str, folder: Path
) -> None:
    """Runs one trial, whose seed is its number, unless it is finished; one begun before goes on.

    Raises:
        FloatingPointError: the loss is not finite.
        ValueError: the trial's checkpoint is damaged or belongs to another training.
    """
    done = folder / "trial.json"
    if done.exists():
        return
    options = options_of(name, plan, images, recipe)
    torch.manual_seed(trial)
    model = create(name, **options)
    names = {"name": name, "data": plan.data, "network": options}
    resume = file_of(folder).exists()
    metrics = fit(
        model, images, recipe, device=device, out=folder, resume=resume, names=names,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    probabilities, labels = (t.numpy() for t in predict(model.eval(), images, device, 1))
    write_whole(
        folder / "predictions.npz",
        lambda to: np.savez(to, probabilities=probabilities, labels=labels),
    )
    write_json(done, {
        "name": name, "trial": trial, "seed": trial, "metrics": metrics,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    })  # fmt: skip
    last = metrics[-1]
    print(f"{name}, trial {trial}: {100 * (1 - last['test_accuracy']):.2f} % errors", flush=True)


def command_line() -> argparse.ArgumentParser:
    """The command line."""
    parser = parser_for("compare", __doc__, "--suite table2 --data fashion-mnist --scale 0.25")
    parser.add_argument("--suite", required=True, choices=list(SUITES), help="the table")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these networks")
    parser.add_argument("--data", required=True, choices=list(data.SETS), help="what to train on")
    add_folder(parser)
    parser.add_argument("--trials", type=int, default=3, help="trainings of each network")
    parser.add_argument("--scale", type=float, default=1.0, help="above 0 and at most 1")
    parser.add_argument("--epochs", type=int, help="of each (default: the recipe's at this scale)")
    parser.add_argument(
        "--recipe", help=f"of all (default: the paper's of each; {LONGER}: its second column)"
    )
    parser.add_argument("--channels-last", action="store_true", help="keep maps in channels_last")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: PyTorch's)")
    add_device(parser)
    parser.add_argument("--out", type=Path, help="folder of the trials (default: runs/SUITE-DATA)")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    return parser


def _chosen(options: argparse.Namespace) -> tuple[Entry, ...]:
    entries = SUITES[options.suite]
    if not options.rows:
        return entries
    unknown = sorted(set(options.rows) - {entry.name for entry in entries})
    if unknown:
        known = ", ".join(entry.name for entry in entries)
        raise ValueError(f"rows must be some of {known}, got {', '.join(unknown)}")
    return tuple(entry for entry in entries if entry.name in options.rows)


def _check(options: argparse.Namespace) -> None:
    if not 0 < options.scale <= 1:
        raise ValueError(f"scale must be above 0 and at most 1, got {options.scale}")
    for name in ("trials", "threads", "epochs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _left_out(entries: tuple[Entry, ...], plan: Plan, images: DataSet) -> dict[str, str]:
    """The networks that cannot be built for this comparison, with the reasons."""
    reasons: dict[str, str] = {}
    for entry in entries:
        try:
            if entry.name not in ENSEMBLES:
                options_of(entry.name, plan, images, recipe_for(entry.name, plan.recipe))
        except ValueError as error:
            reasons[entry.name] = str(error)
            print(f"{entry.name} is left out: {error}", file=sys.stderr, flush=True)
    return reasons


def run(options: argparse.Namespace) -> None:
    """Trains and reports.

    Raises:
        ValueError: an option has a value it cannot have, `out` holds another comparison, or a
            checkpoint in it cannot be read.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    _check(options)
    entries, out = _chosen(options), options.out or Path("runs") / f"{options.suite}-{options.data}"
    if options.report_only and not (out / "plan.json").exists():
        raise ValueError(f"out must be the folder of a comparison, got {out} without a plan.json")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = device_of(options)
    images = data.load(options.data, options.data_dir)
    limit = max(1, round(images.train_count * options.scale))
    if limit < images.train_count:
        images = data.load(options.data, options.data_dir, limit)
    usual = recipe_for(entries[0].name, options.recipe, images.classes)
    epochs = options.epochs or max(1, round(usual.epochs * options.scale**2))
    plan = Plan(
        options.suite, options.data, options.scale, epochs, limit, options.channels_last,
        options.recipe,
    )  # fmt: skip
    remember(asdict(plan), out)
    left_out = _left_out(entries, plan, images)
    for trial in range(0 if options.report_only else options.trials):
        for entry in entries:
            if entry.name in ENSEMBLES or entry.name in left_out:
                continue
            recipe = recipe_for(
                entry.name, options.recipe, images.classes, epochs=epochs, seed=trial
            )
            folder = out / entry.name / f"trial{trial}"
            try:
                with locked(folder.parent):  # the trial's own lock ends with its training
                    train(entry.name, trial, plan, recipe, images, device, folder)
            except FloatingPointError as error:
                write_json(folder / "failed.json", str(error))
                print(f"{entry.name}, trial {trial} failed: {error}", file=sys.stderr, flush=True)
        report.write(out, asdict(plan), entries, left_out)
    report.write(out, asdict(plan), entries, left_out)
    print(f"report: {out / 'report.md'}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status, see `models.cli.run`."""
    return cli.run(command_line(), arguments, run, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
