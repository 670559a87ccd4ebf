"""Training steps of a whole network: eager routers, compiled, fused.

The routers' share of a step is measured by timing all routers alone, forward and backward, on
the maps that they meet in the network, in the same rounds as the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.cases import LAYOUTS
from benchmarks.choice import Choice, Row, using
from benchmarks.measure import Step, contest, spread
from benchmarks.training import build, images, is_right, training_step
from models.demo import router_step

CONTENDERS = ("eager", "compile", "fused")
NETWORK = "basecnn_2_cc"
BATCHES = (8, 128)
PARTS = ("step", "routers alone")


def networks(
    layout: str, batch: int, names: list[str]
) -> dict[str, tuple[nn.Module, Callable[..., Any]] | str]:
    """Of each contender the network and what runs it, or why it may not be timed."""
    made: dict[str, tuple[nn.Module, Callable[..., Any]] | str] = {}
    torch._dynamo.reset()
    for name in names:
        kind = "fused" if name == "fused" else "eager"
        eager, model = (build(NETWORK, k, channels_last=layout != "NCHW") for k in ("eager", kind))
        run = torch.compile(model, dynamic=False) if name == "compile" else model
        try:
            made[name] = (model, run) if is_right(model, run, eager, batch) else "wrong"
        except RuntimeError as error:
            print(f"{NETWORK}, batch {batch}: {name} failed: {error}", flush=True)
            made[name] = "failed"
    return made


def named(choice: Choice) -> Iterator[tuple[str, str, int, int]]:
    """Name, layout, batch and threads of what was asked for."""
    for layout in LAYOUTS:
        for batch in BATCHES:
            case = f"{NETWORK} B={batch} fp32 {layout}"
            if choice.text in case:
                for threads in choice.threads:
                    yield case, layout, batch, threads


def rows(choice: Choice) -> Iterator[Row]:
    """Of each batch, layout and number of threads the step, and its routers alone."""
    for case, layout, batch, threads in named(choice):
        x, y = images(batch)
        steps: dict[tuple[str, str], Step] = {}
        with using(threads):
            found = networks(layout, batch, choice.only(CONTENDERS))
            for name, one in found.items():
                if isinstance(one, str):
                    continue
                steps[name, "step"] = training_step(*one, x, y)
                if name != "compile":  # its routers are not apart from the rest
                    steps[name, "routers alone"] = router_step(one[0], x)
            times = contest(steps, choice.rounds)
        for part in PARTS:
            values: dict[str, Any] = {n: one for n, one in found.items() if isinstance(one, str)}
            values |= {name: spread(t) for (name, of), t in times.items() if of == part}
            yield {"case": case, "batch": batch, "layout": layout, "threads": threads,
                   "part": part, "unit": "us", "values": values}  # fmt: skip
