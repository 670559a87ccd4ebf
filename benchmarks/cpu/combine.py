"""combine: predictions of two paths for two outputs, against the same in plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import baselines
from benchmarks.cases import DTYPES, LAYOUTS, Case
from benchmarks.cpu.floor import copies
from benchmarks.cpu.suite import Choice, Row, head, timed_rows, using
from benchmarks.measure import contest
from benchmarks.workload import Workload, in_layout, map_like
from mpkernels import functional

CASES = [
    Case(128, channels, spatial, 2, 2, dtype, layout)
    for channels, spatial in ((64, (16, 16)), (128, (8, 8)))
    for dtype in DTYPES
    for layout in LAYOUTS
]
PARTS = ("forward", "forward+backward")
CONTENDERS = ("loops", "stacked", "compile", "copy", "fused")


def loops(us: list[Tensor], gates: Tensor, bias: Tensor) -> list[Tensor]:
    """One sum per output; `gates` in the dtype of the maps."""
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


def combining(case: Case) -> Workload:
    """Predictions, gates of a softmax, and biases that no value cancels."""
    m, n, dtype = case.inputs, case.outputs, DTYPES[case.dtype]
    wide = case._replace(channels=n * case.channels)
    # Values clearly off 0: where rounding decides whether a ReLU is on, gradients of right
    # contenders differ.
    signs = torch.randn(case.batch, wide.channels, *case.spatial).sign().to(dtype)
    us = [in_layout((1 + map_like(wide).abs()) * signs, case) for _ in range(m)]
    gates = torch.randn(case.batch, m, n).softmax(-1).to(dtype)
    bias = (torch.rand(m, wide.channels) / 2).to(dtype)
    return Workload(case, us, [gates, bias], [map_like(case) for _ in range(n)], loops)


def rows(choice: Choice) -> Iterator[Row]:
    """For each case and number of threads a row per part."""
    for case in CASES:
        if choice.text not in ("", "bars") and choice.text not in str(case):
            continue
        for threads in choice.threads:
            yield from _case_rows(case, threads, choice.only(CONTENDERS), choice.rounds)


def _case_rows(case: Case, threads: int, names: list[str], rounds: int) -> Iterator[Row]:
    """Forward without autograd, and forward with backward, of the contenders that are right."""
    torch.manual_seed(0)
    with using(threads):
        workload = combining(case)
        ways = baselines.contenders(names, loops, stacked, functional.combine)
        verdicts = workload.verdicts(ways)
        steps = workload.steps(ways, verdicts)
        if "copy" in names:
            steps |= copies(workload)
        times = contest(steps, rounds)
    yield from timed_rows(head(case, threads), PARTS, names, verdicts, times)
