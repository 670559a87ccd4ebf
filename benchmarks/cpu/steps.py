"""Training steps and forward passes of whole networks: eager routers, compiled, fused.

The routers' share of a step is measured by timing all routers alone, forward and backward, on
the maps that they meet in the network, in the same rounds as the step. For a forward pass they are
timed forward alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import models
from benchmarks.cases import LAYOUTS
from benchmarks.cpu.suite import Choice, Row, timed_rows, using
from benchmarks.measure import Step, contest
from benchmarks.training import (
    build,
    forward_pass,
    images,
    is_right,
    router_step,
    training_step,
)

CONTENDERS = ("eager", "compile", "fused")
PLAIN = ("eager", "fused")
ALONE = "routers alone"
# A network and what runs it, or why it may not be timed.
Network = tuple[nn.Module, Callable[..., Any]] | str


class Case(NamedTuple):
    """A network with its batch.

    Larger networks take minutes to compile, so by default only small ones are.
    """

    network: str
    batch: int
    layout: str = "NCHW"
    part: str = "step"
    contenders: tuple[str, ...] = PLAIN

    def __str__(self) -> str:
        return f"{self.network} B={self.batch} fp32 {self.layout}"

    def images(self) -> tuple[Tensor, Tensor]:
        """Images of the network's size, and labels."""
        return images(self.batch, size=models.options(self.network)["size"])

    def run(self, model: nn.Module, run: Callable[..., Any], x: Tensor, y: Tensor) -> Step:
        """The step or the forward pass."""
        return training_step(model, run, x, y) if self.part == "step" else forward_pass(run, x)

    def alone(self, model: nn.Module, x: Tensor) -> Step:
        """Its routers, without the rest."""
        return router_step(model, x, backward=self.part == "step")

    def head(self, threads: int) -> Row:
        """What its rows have in common."""
        return {"case": str(self), "batch": self.batch, "layout": self.layout, "threads": threads}


# The step's batches are those of the paper's recipes; batch 8 shows what the calls cost.
CASES = [
    *(Case("basecnn_2_cc", batch, contenders=CONTENDERS) for batch in (8, 128)),
    Case("basecnn_2_cp", 128),
    *(
        Case(name, 64)
        for name in ("resnet20_2_cp", "basecnn_3_cc", "resnet20_3_cc", "resnet32_4_cc")
    ),
    *(Case("resnet18_2_cc", batch, part="forward") for batch in (1, 32)),
]


def networks(case: Case, names: list[str]) -> dict[str, Network]:
    """The network of each contender."""
    torch._dynamo.reset()
    x, y = (t[: min(case.batch, 8)] if case.part == "forward" else t for t in case.images())
    built: dict[str, Network] = {}
    for name in names:
        kind = "fused" if name == "fused" else "eager"
        eager, model = (
            build(case.network, k, channels_last=case.layout != "NCHW").train(case.part == "step")
            for k in ("eager", kind)
        )
        run = torch.compile(model, dynamic=False) if name == "compile" else model
        try:
            built[name] = (model, run) if is_right(model, run, eager, x, y) else "wrong"
        except RuntimeError as error:
            print(f"{case}: {name} failed: {error}", flush=True)
            built[name] = "failed"
    return built


def chosen(choice: Choice) -> Iterator[tuple[Case, int]]:
    """The cases of a run, with each number of threads."""
    for layout in LAYOUTS:
        for case in (case._replace(layout=layout) for case in CASES):
            if choice.text in str(case):
                for threads in choice.threads:
                    yield case, threads


def contenders_of(choice: Choice, case: Case, contenders: tuple[str, ...]) -> list[str]:
    """Those that the run names; if it names none, those of the case."""
    names = choice.only(contenders)
    return names if choice.contenders else [name for name in names if name in case.contenders]


def rows(choice: Choice) -> Iterator[Row]:
    """For each case and number of threads the step or forward pass, and its routers alone."""
    for case, threads in chosen(choice):
        x, y = case.images()
        names = contenders_of(choice, case, CONTENDERS)
        verdicts: dict[str, str] = {}
        steps: dict[tuple[str, str], Step] = {}
        with using(threads):
            for name, network in networks(case, names).items():
                if isinstance(network, str):
                    verdicts[name] = network
                    continue
                steps[name, case.part] = case.run(*network, x, y)
                if name != "compile":  # its routers are not apart from the rest
                    steps[name, ALONE] = case.alone(network[0], x)
            times = contest(steps, choice.rounds)
        yield from timed_rows(case.head(threads), (case.part, ALONE), names, verdicts, times)
