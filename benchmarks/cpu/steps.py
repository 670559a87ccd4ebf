"""Training steps and forward passes of whole networks: eager routers, compiled, fused.

The routers' share of a step is measured by timing all routers alone, forward and backward, on
the maps that they meet in the network, in the same rounds as the step. Of a forward pass they are
timed forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import models
from benchmarks.cases import LAYOUTS
from benchmarks.cpu.suite import Choice, Row, using
from benchmarks.demo import router_step
from benchmarks.measure import Step, contest, spread
from benchmarks.training import build, forward_pass, images, is_right, training_step

CONTENDERS = ("eager", "compile", "fused")
PLAIN = ("eager", "fused")
ALONE = "routers alone"


class Case(NamedTuple):
    """A network with its batch. Larger ones take minutes to compile: only where asked for."""

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


# The step's batches are those of the paper's recipes, and one that shows what calls cost.
CASES = [
    *(Case("basecnn_2_cc", batch, contenders=CONTENDERS) for batch in (8, 128)),
    Case("basecnn_2_cp", 128),
    *(
        Case(name, 64)
        for name in ("resnet20_2_cp", "basecnn_3_cc", "resnet20_3_cc", "resnet32_4_cc")
    ),
    *(Case("resnet18_2_cc", batch, part="forward") for batch in (1, 32)),
]


def networks(case: Case, names: list[str]) -> dict[str, tuple[nn.Module, Callable[..., Any]] | str]:
    """Of each contender the network and what runs it, or why it may not be timed."""
    made: dict[str, tuple[nn.Module, Callable[..., Any]] | str] = {}
    torch._dynamo.reset()
    x, y = (t[: min(case.batch, 8)] if case.part == "forward" else t for t in case.images())
    for name in names:
        kind = "fused" if name == "fused" else "eager"
        eager, model = (
            build(case.network, k, channels_last=case.layout != "NCHW").train(case.part == "step")
            for k in ("eager", kind)
        )
        run = torch.compile(model, dynamic=False) if name == "compile" else model
        try:
            made[name] = (model, run) if is_right(model, run, eager, x, y) else "wrong"
        except RuntimeError as error:
            print(f"{case}: {name} failed: {error}", flush=True)
            made[name] = "failed"
    return made


def named(choice: Choice, cases: Sequence[Case] = CASES) -> Iterator[tuple[Case, int]]:
    """Case and threads of what was asked for."""
    for layout in LAYOUTS:
        for case in (case._replace(layout=layout) for case in cases):
            if choice.text in str(case):
                for threads in choice.threads:
                    yield case, threads


def asked(choice: Choice, case: Case, contenders: tuple[str, ...]) -> list[str]:
    """The contenders that were asked for; if none were, those of the case."""
    names = choice.only(contenders)
    return names if choice.contenders else [name for name in names if name in case.contenders]


def rows(choice: Choice, cases: Sequence[Case] = CASES) -> Iterator[Row]:
    """Of each case and number of threads the step or forward pass, and its routers alone."""
    for case, threads in named(choice, cases):
        x, y = case.images()
        steps: dict[tuple[str, str], Step] = {}
        with using(threads):
            found = networks(case, asked(choice, case, CONTENDERS))
            for name, one in found.items():
                if isinstance(one, str):
                    continue
                steps[name, case.part] = case.run(*one, x, y)
                if name != "compile":  # its routers are not apart from the rest
                    steps[name, ALONE] = case.alone(one[0], x)
            times = contest(steps, choice.rounds)
        for part in (case.part, ALONE):
            values: dict[str, Any] = {n: one for n, one in found.items() if isinstance(one, str)}
            values |= {name: spread(t) for (name, of), t in times.items() if of == part}
            yield {"case": str(case), "batch": case.batch, "layout": case.layout,
                   "threads": threads, "part": part, "unit": "us", "values": values}  # fmt: skip
