"""Cross-predictions of small vectors, as whole layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import mpkernels as mpk
from benchmarks.cpu.suite import Choice, Row, head, timed_rows, using
from benchmarks.measure import Step, contest
from mpkernels import functional
from mpkernels.nearness import is_near, slack

CONTENDERS = ("loops", "compile", "parts", "fused")
PARTS = ("forward", "forward+backward")
Layer = Callable[[list[Tensor]], list[Tensor]]


class Case(NamedTuple):
    """Vectors of C features to vectors of C' features, two paths to two."""

    batch: int
    channels: int
    predicted: int

    def __str__(self) -> str:
        return f"B={self.batch} [{self.channels}] -> [{self.predicted}] 2->2 fp32"


CASES = [
    *(Case(batch, 32, 32) for batch in (1, 8, 128, 512)),
    *(Case(batch, 64, 64) for batch in (1, 128, 512)),
]


class Parts(mpk.CrossPredictLinear):
    """The gate, a matrix product per path, and combine."""

    def _route(self, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        gates, us = self._gates_and_predictions(xs, functional.gate)
        return functional.combine(us, gates, self.bias), gates


KINDS = {"parts": Parts, "fused": mpk.CrossPredictLinear}


def contenders(
    plain: nn.Module, case: Case, names: list[str]
) -> dict[str, tuple[nn.Module, Layer]]:
    """Of each name the router with the parameters of `plain`, and what runs it."""
    torch._dynamo.reset()
    layers: dict[str, tuple[nn.Module, Layer]] = {}
    for name in names:
        kind: Any = KINDS.get(name, mpk.eager.CrossPredictLinear)
        router = kind(case.channels, case.predicted, 2, 2)
        router.load_state_dict(plain.state_dict())
        layers[name] = router, torch.compile(router, dynamic=False) if name == "compile" else router
    return layers


def forward(layer: Layer, xs: list[Tensor]) -> Step:
    """Without autograd."""
    plain = [x.detach() for x in xs]

    def step() -> object:
        with torch.no_grad():
            return layer(plain)

    return step


def both(router: nn.Module, layer: Layer, xs: list[Tensor], grads: list[Tensor]) -> Step:
    """Forward, and backward of every gradient."""
    leaves = [*xs, *router.parameters()]
    return lambda: torch.autograd.grad(layer(xs), leaves, grads)


def results(router: nn.Module, layer: Layer, xs: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Outputs, then gradients."""
    ys = layer(xs)
    return [*(y.detach() for y in ys), *torch.autograd.grad(ys, [*xs, *router.parameters()], grads)]


def rows(choice: Choice) -> Iterator[Row]:
    """For each case and number of threads a row per part."""
    for case in (case for case in CASES if choice.text in str(case)):
        for threads in choice.threads:
            with using(threads):
                yield from _case_rows(case, threads, choice)


def _case_rows(case: Case, threads: int, choice: Choice) -> Iterator[Row]:
    """Forward without autograd, and forward with backward, of the contenders that are right."""
    torch.manual_seed(0)
    xs = [torch.randn(case.batch, case.channels).requires_grad_() for _ in range(2)]
    grads = [torch.randn(case.batch, case.predicted) for _ in range(2)]
    plain = mpk.eager.CrossPredictLinear(case.channels, case.predicted, 2, 2)
    names = choice.only(CONTENDERS)
    layers = contenders(plain, case, names)
    near = results(plain, plain, xs, grads)
    wide = plain.double()
    wide_xs = [x.detach().double().requires_grad_() for x in xs]
    exact = results(wide, wide, wide_xs, [g.double() for g in grads])
    most = slack(torch.float32, case.channels)
    steps: dict[tuple[str, str], Step] = {}
    verdicts: dict[str, str] = {}
    for name, (router, layer) in layers.items():
        right = is_near(results(router, layer, xs, grads), exact, near, most)
        verdicts[name] = "right" if right else "wrong"
        if right:
            steps[name, "forward"] = forward(layer, xs)
            steps[name, "forward+backward"] = both(router, layer, xs, grads)
    times = contest(steps, choice.rounds)
    yield from timed_rows(head(case, threads), PARTS, names, verdicts, times)
