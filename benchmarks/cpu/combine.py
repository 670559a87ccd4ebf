"""combine on a CPU: predictions of two paths for two outputs, against the same in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import DTYPES, LAYOUTS, Case
from benchmarks.correct import is_near, slack
from benchmarks.cpu.suite import Choice, Row, using
from benchmarks.measure import Step, contest, spread
from benchmarks.problem import copy_step, map_like
from mpkernels import functional

CASES = [
    Case(128, channels, spatial, 2, 2, dtype, layout)
    for channels, spatial in ((64, (16, 16)), (128, (8, 8)))
    for dtype in DTYPES
    for layout in LAYOUTS
]
PARTS = ("forward", "forward+backward")
CONTENDERS = ("loops", "stacked", "compile", "copy", "fused")
Combine = Callable[[list[Tensor], Tensor, Tensor], list[Tensor]]


def loops(us: list[Tensor], gates: Tensor, bias: Tensor) -> list[Tensor]:
    """One sum for each output; `gates` in the dtype of the maps."""
    n = gates.shape[2]
    spatial = (None,) * (us[0].dim() - 2)
    ys = []
    for j in range(n):
        y = None
        for i, u in enumerate(us):
            part = u.tensor_split(n, 1)[j] + bias[i].tensor_split(n)[j][(..., *spatial)]
            term = gates[:, i, j, None][(..., *spatial)] * part
            y = term if y is None else y + term
        assert y is not None
        ys.append(y.relu())
    return ys


def stacked(us: list[Tensor], gates: Tensor, bias: Tensor) -> list[Tensor]:
    """All predictions in one tensor, sums as einsum."""
    n = gates.shape[2]
    u = torch.stack([u.unflatten(1, (n, -1)) for u in us], 1)
    b = bias.unflatten(1, (n, -1))[(..., *(None,) * (us[0].dim() - 2))]
    return list(torch.einsum("bmn,bmnc...->nbc...", gates, u + b).relu().unbind(0))


def contenders(names: list[str]) -> dict[str, Combine]:
    """Those that are named; compilation happens at the first call, anew each time."""
    torch._dynamo.reset()
    made: dict[str, Combine] = {
        "loops": loops,
        "stacked": stacked,
        "compile": torch.compile(loops, dynamic=False),
        "fused": functional.combine,
    }
    return {name: made[name] for name in CONTENDERS if name in names and name in made}


class Problem:
    """Predictions, gates of a softmax, biases that no value cancels, and the outputs' gradients."""

    def __init__(self, case: Case) -> None:
        m, n, dtype = case.inputs, case.outputs, DTYPES[case.dtype]
        wide = case._replace(channels=n * case.channels)
        self.case = case
        # Values clearly off 0: where rounding decides whether a ReLU is on, gradients of right
        # contenders differ.
        signs = torch.randn(case.batch, wide.channels, *case.spatial).sign().to(dtype)
        self.us = [((1 + map_like(wide).abs()) * signs).requires_grad_() for _ in range(m)]
        self.gates = torch.randn(case.batch, m, n).softmax(-1).to(dtype).requires_grad_()
        self.bias = (torch.rand(m, wide.channels) / 2).to(dtype).requires_grad_()
        self.grads = [map_like(case) for _ in range(n)]
        if case.layout == "channels_last":
            self.us = [
                u.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
                for u in self.us
            ]

    def forward(self, combine: Combine) -> Step:
        """Without autograd."""
        us, gates, bias = [u.detach() for u in self.us], self.gates.detach(), self.bias.detach()

        def step() -> object:
            with torch.no_grad():
                return combine(us, gates, bias)

        return step

    def both(self, combine: Combine) -> Step:
        """Forward, and backward of every gradient."""
        leaves = [*self.us, self.gates, self.bias]
        return lambda: torch.autograd.grad(combine(self.us, self.gates, self.bias), leaves,
                                           self.grads)  # fmt: skip

    def results(self, combine: Combine, dtype: torch.dtype) -> list[Tensor]:
        """Outputs, then gradients."""
        us = [u.detach().to(dtype).requires_grad_() for u in self.us]
        gates, bias = (t.detach().to(dtype).requires_grad_() for t in (self.gates, self.bias))
        ys = combine(us, gates, bias)
        grads = torch.autograd.grad(ys, [*us, gates, bias], [g.to(dtype) for g in self.grads])
        return [*(y.detach() for y in ys), *grads]

    def verdicts(self, made: dict[str, Combine]) -> dict[str, str]:
        """Of each contender "right" or "wrong"."""
        dtype = DTYPES[self.case.dtype]
        exact, plain = self.results(loops, torch.float64), self.results(loops, dtype)
        most = slack(dtype, math.prod((self.case.channels, *self.case.spatial)))
        return {
            name: "right" if is_near(self.results(combine, dtype), exact, plain, most) else "wrong"
            for name, combine in made.items()
        }

    def floor(self) -> tuple[int, int]:
        """Bytes of a forward and of a backward with everything read and written once."""
        us, ys = sum(u.nbytes for u in self.us), sum(g.nbytes for g in self.grads)
        return us + ys, us + ys + us


def rows(choice: Choice) -> Iterator[Row]:
    """Of each case with each number of threads a row for each part."""
    for case in CASES:
        if choice.text not in ("", "bars") and choice.text not in str(case):
            continue
        for threads in choice.threads:
            yield from case_rows(case, threads, choice.only(CONTENDERS), choice.rounds)


def case_rows(case: Case, threads: int, names: list[str], rounds: int) -> list[Row]:
    """Forward without autograd, and forward with backward, of the contenders that are right."""
    torch.manual_seed(0)
    with using(threads):
        problem = Problem(case)
        made = contenders(names)
        verdicts = problem.verdicts(made)
        steps: dict[tuple[str, str], Step] = {}
        for name, combine in made.items():
            if verdicts[name] == "right":
                steps[name, "forward"] = problem.forward(combine)
                steps[name, "forward+backward"] = problem.both(combine)
        if "copy" in names:
            forward, backward = problem.floor()
            for part, moved in zip(PARTS, (forward, forward + backward)):
                steps["copy", part] = copy_step(problem.us[0], moved)
        times = contest(steps, rounds)
    found: list[Row] = []
    for part in PARTS:
        values: dict[str, Any] = {n: v for n, v in verdicts.items() if v != "right"}
        values |= {name: spread(t) for (name, of), t in times.items() if of == part}
        found.append(
            {"case": str(case), **case._asdict(), "threads": threads, "part": part, "unit": "us",
             "values": {name: values[name] for name in names if name in values}}
        )  # fmt: skip
    return found
