"""What the trials of a comparison reached."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .suites import ENSEMBLES, Entry

MEMBERS = 3  # of an ensemble of one kind


@dataclass(frozen=True)
class Result:
    """What the trials of one network reached.

    Args:
        by_seed: percent of wrong test images after the last epoch of each trial, by its seed.
        best: the smallest error after any epoch of any trial, which papers like to report; NaN for
            ensembles.
        parameters: number of trainable parameters.
    """

    by_seed: dict[int, float]
    best: float
    parameters: int

    @property
    def errors(self) -> list[float]:
        """The errors of all trials."""
        return list(self.by_seed.values())

    @property
    def mean(self) -> float:
        """The mean error of the trials."""
        return statistics.fmean(self.errors)

    @property
    def deviation(self) -> float:
        """The standard deviation between trials; NaN for one trial."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else math.nan


def read(out: Path, name: str) -> Result | None:
    """The finished trials of a network; None if there are none."""
    trials = {
        seed: json.loads(path.read_text("utf-8")) for seed, path in _finished(out, name).items()
    }
    if not trials:
        return None
    errors = {
        seed: [100 * (1 - line["test_accuracy"]) for line in trial["metrics"]]
        for seed, trial in trials.items()
    }
    return Result(
        {seed: own[-1] for seed, own in errors.items()},
        min(map(min, errors.values())),
        next(iter(trials.values()))["parameters"],
    )


def _finished(out: Path, name: str) -> dict[int, Path]:
    """The trial.json of each trial that is finished, by its number, which is its seed."""
    paths = (out / name).glob("trial*/trial.json")
    return dict(sorted((int(p.parent.name.removeprefix("trial")), p) for p in paths))


def failures(out: Path, name: str) -> list[str]:
    """The failed trials of a network, with their reasons."""
    paths = sorted((out / name).glob("trial*/failed.json"))
    return [
        f"{path.parent.name}: {json.loads(path.read_text('utf-8'))}"
        for path in paths
        if not (path.parent / "trial.json").exists()  # else it was trained after all
    ]


def machines(out: Path, entries: tuple[Entry, ...]) -> list[str]:
    """Hardware, versions and commit of the trials, without repetitions."""
    lines: dict[str, None] = {}
    for entry in entries:
        for path in sorted((out / entry.name).glob("trial*/environment.json")):
            held = json.loads(path.read_text("utf-8"))
            lines[
                f"{held['device']}, {held['threads']} threads, torch {held['torch']}, "
                f"mpkernels {held['mpkernels']}, commit {held['commit']}"
            ] = None
    return list(lines)


def _predictions(out: Path, name: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Probabilities and labels of each trial that is finished, by its seed."""
    predictions = {}
    for seed, path in _finished(out, name).items():
        with np.load(path.with_name("predictions.npz")) as held:  # refuses pickled content
            predictions[seed] = held["probabilities"], held["labels"]
    return predictions


def ensemble(out: Path, name: str) -> Result | None:
    """Averages the probabilities of trained members; None while some are missing.

    Of one kind of member each `MEMBERS` trials are a result, 0 to 2, 3 to 5 and so on: none is in
    two, and the first one's seed is the result's. With several kinds the members of one seed are a
    result.
    """
    members = ENSEMBLES[name]
    held = [_predictions(out, member) for member in members]
    results = [read(out, member) for member in members]
    if len(members) == 1:
        of_one = held[0]
        starts = range(0, max(of_one, default=-1) + 1, MEMBERS)
        groups = {
            start: [of_one[k] for k in range(start, start + MEMBERS) if k in of_one]
            for start in starts
        }
        groups = {at: group for at, group in groups.items() if len(group) == MEMBERS}
    else:
        seeds = sorted(set.intersection(*map(set, held)))
        groups = {seed: [of[seed] for of in held] for seed in seeds}
    if not groups or None in results:
        return None
    errors = {}
    for seed, group in groups.items():
        mean = np.mean([probabilities for probabilities, _ in group], axis=0)
        errors[seed] = 100 * float((mean.argmax(1) != group[0][1]).mean())
    parameters = sum(result.parameters for result in results if result is not None)
    return Result(errors, math.nan, (MEMBERS if len(members) == 1 else 1) * parameters)


def results_of(out: Path, entries: tuple[Entry, ...]) -> dict[str, Result]:
    """The result of each network that has trials."""
    results: dict[str, Result] = {}
    for entry in entries:
        read_one = ensemble if entry.name in ENSEMBLES else read
        result = read_one(out, entry.name)
        if result is not None:
            results[entry.name] = result
    return results
