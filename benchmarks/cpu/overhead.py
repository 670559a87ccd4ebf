"""What a router costs when its maps are tiny: the calls themselves."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import baselines
from benchmarks.cases import Case, picked
from benchmarks.cpu.suite import Choice, Row, head, timed_rows, using
from benchmarks.measure import Step, contest
from benchmarks.problem import Problem

CONTENDERS = ("loops", "stacked", "compile", "fused")
CASES = [Case(batch, 32, (), 2, 2) for batch in (1, 8, 128)]
PARTS = ("forward", "forward with grad", "forward+backward", "one more router in a chain")


def chain(links: list[Problem], router: baselines.Router) -> Step:
    """Forward and backward of routers in a row, each with its own parameters."""
    parameters = [p for link in links for p in link.parameters]
    xs, grads = links[0].xs, links[-1].grads

    def step() -> object:
        ys: list[Tensor] = xs
        for link in links:
            ys = router(ys, *link.parameters)
        return torch.autograd.grad(ys, [*xs, *parameters], grads)

    return step


def rows(choice: Choice) -> Iterator[Row]:
    """For each vector and number of threads a row per part."""
    for case in picked(CASES, choice.text):
        for threads in choice.threads:
            with using(threads):
                yield from _case_rows(case, threads, choice)


def _case_rows(case: Case, threads: int, choice: Choice) -> Iterator[Row]:
    torch.manual_seed(0)
    names = choice.only(CONTENDERS)
    links = [Problem(case) for _ in range(3)]
    routers = baselines.routers(names)
    verdicts = links[0].verdicts(routers)
    steps: dict[tuple[str, str], Step] = {}
    for name, router in routers.items():
        if verdicts[name] == "right":
            steps[name, "forward"] = links[0].forward(router)
            steps[name, "forward with grad"] = links[0].forward_with_grad(router)
            steps[name, "forward+backward"] = links[0].both(router)
            steps[name, "chain"] = chain(links, router)
    times = contest(steps, choice.rounds)
    for name, _ in [key for key in times if key[1] == "chain"]:
        # Round by round, since a machine that slows down slows both of a round.
        pairs = zip(times[name, "chain"], times[name, "forward+backward"])
        times[name, "one more router in a chain"] = [(three - one) / 2 for three, one in pairs]
    yield from timed_rows(head(case, threads), PARTS, names, verdicts, times)
