"""Peak memory of a training step, from the profiler's record of every allocation.

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

from benchmarks.choice import Choice, Row, using
from benchmarks.cpu_steps import named, networks
from benchmarks.measure import WARM_UP, Step
from benchmarks.training import images, training_step
from models.demo import router_step

CONTENDERS = ("eager", "fused")
PARTS = ("peak of a step", "peak of its routers alone")


def peak(step: Step) -> int:
    """Bytes."""
    for _ in range(WARM_UP):
        step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
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
    """Of each batch and layout the step and its routers alone; the peak is that of any threads."""
    for case, layout, batch, threads in named(choice):
        if threads != choice.threads[0]:
            continue
        x, y = images(batch)
        values: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        with using(threads):
            for name, one in networks(layout, batch, choice.only(CONTENDERS)).items():
                if isinstance(one, str):
                    values = {part: {**values[part], name: one} for part in PARTS}
                    continue
                steps = (training_step(*one, x, y), router_step(one[0], x))
                for part, step in zip(PARTS, steps):
                    size = round(peak(step) / 2**20, 2)
                    values[part][name] = {"low": size, "median": size, "high": size}
        for part in PARTS:
            yield {"case": case, "batch": batch, "layout": layout, "threads": threads,
                   "part": part, "unit": "MiB", "values": values[part]}  # fmt: skip
