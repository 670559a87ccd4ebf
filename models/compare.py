"""Trains what a table of the paper compares: `python -m models.compare --suite table2 --data ...`.

All rows have their first trial, then all their second one, so that a comparison that is stopped
is a fair one. The same command goes on where it stopped; `--report-only` writes the report from
what is there.

`--scale S` makes a small comparison of the same shape: all widths times S (at least 4; gates keep
their hidden units), S of the training images, and S squared of the epochs, with the milestones of
the learning rate at the same fractions.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import models

from . import data
from .data import DataSet
from .paper import report as comparison
from .paper.scores import predict
from .paper.suites import ENSEMBLES, SUITES, Entry
from .training.checkpoint import file_of
from .training.files import write_text, write_whole
from .training.loop import Interrupted, fit
from .training.recipe import Recipe, recipe_for


@dataclass(frozen=True)
class Plan:
    """What makes two runs parts of the same comparison.

    Args:
        suite: one of `SUITES`.
        data: name of the data set.
        scale: of widths, images and epochs, see this module.
        epochs: of every trial.
        images: training images of every trial.
        channels_last: memory format of the maps; it changes rounding alone.
    """

    suite: str
    data: str
    scale: float
    epochs: int
    images: int
    channels_last: bool


def scaled(options: dict[str, Any], scale: float) -> dict[str, Any]:
    """The options of a network that make it narrower.

    Raises:
        ValueError: its widths are no options.
    """
    if scale == 1:
        return {}
    if "stages" not in options:
        raise ValueError("its widths cannot be scaled")

    def width(channels: int) -> int:
        return max(4, round(channels * scale))

    made: dict[str, Any] = {"stages": tuple(tuple(map(width, s)) for s in options["stages"])}
    if "dense" in options:
        made["dense"] = tuple(map(width, options["dense"]))
    return made


def options_of(name: str, plan: Plan, images: DataSet) -> dict[str, Any]:
    """With which a row's network is made.

    Raises:
        ValueError: it cannot be made for this comparison.
    """
    known = models.options(name)
    asked = {"num_classes": images.classes, "channels_last": plan.channels_last,
             "size": images.size}  # fmt: skip
    found = {option: value for option, value in asked.items() if option in known}
    return {**found, **scaled(known, plan.scale)}


def train(
    name: str, trial: int, plan: Plan, recipe: Recipe, images: DataSet, device: str, folder: Path
) -> None:
    """One trial; its seed is its number. What is finished stays, what is not goes on.

    Raises:
        FloatingPointError: its loss is not finite.
        ValueError: its checkpoint is damaged or of another training.
    """
    done = folder / "trial.json"
    if done.exists():
        return
    options = options_of(name, plan, images)
    torch.manual_seed(trial)
    model = models.create(name, **options)
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
    text = json.dumps({
        "name": name, "trial": trial, "seed": trial, "metrics": metrics,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    })  # fmt: skip
    write_text(done, text)
    last = metrics[-1]
    print(f"{name}, trial {trial}: {100 * (1 - last['test_accuracy']):.2f} % errors", flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m models.compare", description=(__doc__ or "").partition("\n")[0]
    )
    made.add_argument("--suite", required=True, choices=list(SUITES))
    made.add_argument("--rows", nargs="+", metavar="NAME", help="some of the suite's networks")
    made.add_argument("--data", required=True, choices=list(data.SETS))
    made.add_argument(
        "--data-dir", type=Path, help="where the images are, if not in the usual place"
    )
    made.add_argument("--trials", type=int, default=3, help="default %(default)s")
    made.add_argument("--scale", type=float, default=1.0, help="above 0 and at most 1")
    made.add_argument("--epochs", type=int, help="instead of the recipe's at this scale")
    made.add_argument("--channels-last", action="store_true")
    made.add_argument("--threads", type=int, help="of the CPU")
    made.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    made.add_argument("--out", type=Path, help="default runs/SUITE-DATA")
    made.add_argument("--report-only", action="store_true", help="train nothing")
    return made


def _chosen(given: argparse.Namespace) -> tuple[Entry, ...]:
    entries = SUITES[given.suite]
    if not given.rows:
        return entries
    unknown = sorted(set(given.rows) - {entry.name for entry in entries})
    if unknown:
        known = ", ".join(entry.name for entry in entries)
        raise ValueError(f"rows must be some of {known}, got {', '.join(unknown)}")
    return tuple(entry for entry in entries if entry.name in given.rows)


def _check(given: argparse.Namespace) -> None:
    if not 0 < given.scale <= 1:
        raise ValueError(f"scale must be above 0 and at most 1, got {given.scale}")
    for name in ("trials", "threads", "epochs"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _remember(plan: Plan, out: Path) -> None:
    """Keeps the plan in `out`.

    Raises:
        ValueError: `out` holds another comparison.
    """
    path = out / "plan.json"
    if path.exists():
        held = json.loads(path.read_text())
        for name, value in asdict(plan).items():
            if held.get(name) != value:
                raise ValueError(f"out: {out} has {name} {held.get(name)!r}, got {value!r}")
    write_text(path, json.dumps(asdict(plan)))


def _left_out(entries: tuple[Entry, ...], plan: Plan, images: DataSet) -> dict[str, str]:
    """The reasons of the networks that cannot be made for this comparison."""
    found: dict[str, str] = {}
    for entry in entries:
        try:
            if entry.name not in ENSEMBLES:
                options_of(entry.name, plan, images)
        except ValueError as error:
            found[entry.name] = str(error)
            print(f"{entry.name} is left out: {error}", file=sys.stderr, flush=True)
    return found


def run(given: argparse.Namespace) -> None:
    """Trains and reports.

    Raises:
        ValueError: an argument is not one that it can be, `out` holds another comparison, or a
            checkpoint in it cannot be read.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    _check(given)
    entries, out = _chosen(given), given.out or Path("runs") / f"{given.suite}-{given.data}"
    if given.report_only and not (out / "plan.json").exists():
        raise ValueError(f"out must be the folder of a comparison, got {out} without a plan.json")
    if given.threads:
        torch.set_num_threads(given.threads)
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    images = data.load(given.data, given.data_dir)
    limit = max(1, round(images.train_count * given.scale))
    if limit < images.train_count:
        images = data.load(given.data, given.data_dir, limit)
    epochs = given.epochs or max(1, round(recipe_for(entries[0].name).epochs * given.scale**2))
    plan = Plan(given.suite, given.data, given.scale, epochs, limit, given.channels_last)
    _remember(plan, out)
    left_out = _left_out(entries, plan, images)
    for trial in range(0 if given.report_only else given.trials):
        for entry in entries:
            if entry.name in ENSEMBLES or entry.name in left_out:
                continue
            recipe = recipe_for(entry.name, epochs=epochs, seed=trial)
            folder = out / entry.name / f"trial{trial}"
            try:
                train(entry.name, trial, plan, recipe, images, device, folder)
            except FloatingPointError as error:
                write_text(folder / "failed.json", json.dumps(str(error)))
                print(f"{entry.name}, trial {trial} failed: {error}", file=sys.stderr, flush=True)
        comparison.write(out, asdict(plan), entries, left_out)
    comparison.write(out, asdict(plan), entries, left_out)
    print(f"report: {out / 'report.md'}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        the exit status: 0, 2 for bad input, 130 for Ctrl-C, 143 for SIGTERM.
    """
    given = parser().parse_args(arguments)
    try:
        run(given)
    except (Interrupted, KeyboardInterrupt) as stop:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 128 + getattr(stop, "signal", signal.SIGINT)
    except (data.DataMissing, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
