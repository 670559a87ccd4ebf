"""Peak memory of a step or forward pass, from the profiler's record of every allocation.

PyTorch's CPU allocator reports each allocation and each release, also those made in C++. The peak
is that of their running sum over one step, after two steps that allocate what stays; it leaves out
what is held between steps: parameters, their gradients and the optimiser's state. What libraries
allocate by themselves is not seen. The figure is exact and repeats, where the resident size of a
process would depend on what malloc had kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd import DeviceType

from benchmarks.cpu.steps import PLAIN as CONTENDERS
from benchmarks.cpu.steps import chosen, contenders_of, networks
from benchmarks.cpu.suite import Choice, Row, row, using
from benchmarks.measure import WARM_UP, Step


def peak(step: Step) -> int:
    """Bytes."""
    for _ in range(WARM_UP):
        step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(
        activities=activities, profile_memory=True, acc_events=True
    ) as profile:
        step()
    records: Any = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = [
        (record.start_ns(), record.nbytes())
        for record in records
        if record.name() == "[memory]" and record.device_type() == DeviceType.CPU
    ]
    held = most = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        held += change
        most = max(most, held)
    return most


def rows(choice: Choice) -> Iterator[Row]:
    """For each case the step or forward pass, and its routers alone; threads do not matter."""
    for case, threads in chosen(choice):
        if threads != choice.threads[0]:
            continue
        x, y = case.images()
        parts = (f"peak of a {case.part}", "peak of its routers alone")
        values: dict[str, dict[str, Any]] = {part: {} for part in parts}
        with using(threads):
            names = contenders_of(choice, case, CONTENDERS)
            for name, network in networks(case, names).items():
                if isinstance(network, str):
                    for part in parts:
                        values[part][name] = network
                    continue
                steps = (case.run(*network, x, y), case.alone(network[0], x))
                for part, step in zip(parts, steps):
                    size = round(peak(step) / 2**20, 2)
                    values[part][name] = {"low": size, "median": size, "high": size}
        for part in parts:
            yield row(case.head(threads), part, "MiB", values[part])
