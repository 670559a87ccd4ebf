"""Peak memory of a step or forward pass, from the profiler's record of every allocation.

PyTorch's CPU allocator reports each allocation and each release, those in C++ too; their running
sum over one step, after two steps that allocate what stays, has a peak. It is above what is
held between steps: parameters, their gradients and the optimiser's state. What libraries
allocate by themselves is not seen. The figure is exact and repeats, where the resident size of a
process would depend on what malloc had kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd import DeviceType

from benchmarks.cpu.steps import PLAIN as CONTENDERS
from benchmarks.cpu.steps import asked, named, networks
from benchmarks.cpu.suite import Choice, Row, using
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
    """Of each case the step or forward pass, and its routers alone; threads do not matter."""
    for case, threads in named(choice):
        if threads != choice.threads[0]:
            continue
        x, y = case.images()
        parts = (f"peak of a {case.part}", "peak of its routers alone")
        values: dict[str, dict[str, Any]] = {part: {} for part in parts}
        with using(threads):
            for name, one in networks(case, asked(choice, case, CONTENDERS)).items():
                if isinstance(one, str):
                    values = {part: {**values[part], name: one} for part in parts}
                    continue
                for part, step in zip(parts, (case.run(*one, x, y), case.alone(one[0], x))):
                    size = round(peak(step) / 2**20, 2)
                    values[part][name] = {"low": size, "median": size, "high": size}
        for part in parts:
            yield {"case": str(case), "batch": case.batch, "layout": case.layout,
                   "threads": threads, "part": part, "unit": "MiB",
                   "values": values[part]}  # fmt: skip
