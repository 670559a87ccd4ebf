"""Where a training step's time goes, by kind of layer, from torch's profiler."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.cpu.steps import PLAIN as CONTENDERS
from benchmarks.cpu.steps import asked, named, networks
from benchmarks.cpu.suite import Choice, Row, using
from benchmarks.measure import WARM_UP, Step, spread

# The first whose word an operator's name has. Eager routers are made of operators that other
# layers use too and stand under the rest.
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
    found = (kind for kind, words in KINDS.items() if any(word in operator for word in words))
    return next(found, REST)


def shares(step: Step) -> dict[str, float]:
    """Percent of one step's time inside operators, by kind; what runs inside one counts for it."""
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
    """Of each case and number of threads a row for each kind."""
    for case, threads in named(choice):
        x, y = case.images()
        values: dict[str, list[dict[str, float]] | str] = {}
        with using(threads):
            for name, one in networks(case, asked(choice, case, CONTENDERS)).items():
                if isinstance(one, str):
                    values[name] = one
                    continue
                step = case.run(*one, x, y)
                for _ in range(WARM_UP):
                    step()
                values[name] = [shares(step) for _ in range(max(3, choice.rounds // 3))]
        for kind in (*KINDS, REST):
            found = {
                name: each if isinstance(each, str) else spread([one[kind] for one in each])
                for name, each in values.items()
            }
            yield {"case": str(case), "batch": case.batch, "layout": case.layout,
                   "threads": threads, "part": kind, "unit": "%", "values": found}  # fmt: skip
