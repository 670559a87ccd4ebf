"""Where a training step's time goes, by kind of layer, from torch's profiler."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.cpu.steps import PLAIN as CONTENDERS
from benchmarks.cpu.steps import chosen, contenders_of, networks
from benchmarks.cpu.suite import Choice, Row, row, using
from benchmarks.measure import WARM_UP, Step, spread

# An operator is of the first kind that has a word of its name. Eager routers are made of operators
# that other layers use too and stand under the rest.
KINDS = {
    "convolution": ("conv",),
    "batch norm": ("batch_norm", "BatchNorm"),
    "max pool": ("max_pool", "MaxPool"),
    "ReLU": ("relu", "Relu", "threshold"),
    "dense": ("addmm", "aten::mm", "linear"),
    "router": ("mpkernels", "CrossConnect"),
    "optimiser": ("Optimizer", "_foreach"),
    "copy": ("copy_", "clone", "contiguous"),
}
REST = "rest"


def kind_of(operator: str) -> str:
    """The kind of layer that calls an operator of this name."""
    kinds = (kind for kind, words in KINDS.items() if any(word in operator for word in words))
    return next(kinds, REST)


def shares(step: Step) -> dict[str, float]:
    """Percent of one step's time in operators, by kind; an operator includes what it calls."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        step()
    times = dict.fromkeys([*KINDS, REST], 0.0)
    for event in profile.events():
        kind, outer = kind_of(event.name), event.cpu_parent
        while kind == REST and outer is not None:
            kind, outer = kind_of(outer.name), outer.cpu_parent
        times[kind] += event.self_cpu_time_total
    whole = sum(times.values())
    return {kind: 100 * time / whole for kind, time in times.items()}


def rows(choice: Choice) -> Iterator[Row]:
    """For each case and number of threads a row per kind."""
    for case, threads in chosen(choice):
        x, y = case.images()
        profiles: dict[str, list[dict[str, float]] | str] = {}
        with using(threads):
            names = contenders_of(choice, case, CONTENDERS)
            for name, network in networks(case, names).items():
                if isinstance(network, str):
                    profiles[name] = network
                    continue
                step = case.run(*network, x, y)
                for _ in range(WARM_UP):
                    step()
                profiles[name] = [shares(step) for _ in range(max(3, choice.rounds // 3))]
        for kind in (*KINDS, REST):
            values = {
                name: each if isinstance(each, str) else spread([one[kind] for one in each])
                for name, each in profiles.items()
            }
            yield row(case.head(threads), kind, "%", values)
