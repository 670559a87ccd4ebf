"""Every router of the paper's networks, and the named set, against all contenders."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks import baselines
from benchmarks.cases import BARS, Case, network_cases, picked
from benchmarks.cpu.floor import FLOORS, floors
from benchmarks.cpu.suite import Choice, Row, head, timed_rows, using
from benchmarks.measure import contest
from benchmarks.problem import Problem

PARTS = ("forward", "forward+backward")
CONTENDERS = (*baselines.ROUTERS, "operator", *FLOORS)


def rows(choice: Choice) -> Iterator[Row]:
    """For each case and number of threads a row per part."""
    cases = dict.fromkeys([*BARS, *(case for d in choice.dtypes for case in network_cases(d))])
    for case in picked(list(cases), choice.text):
        names = choice.only(CONTENDERS)
        if case not in BARS and "max-autotune" in names:
            names.remove("max-autotune")  # it takes another half minute per case
        for threads in choice.threads:
            yield from case_rows(case, threads, names, choice.rounds)


def case_rows(case: Case, threads: int, names: list[str], rounds: int) -> list[Row]:
    """Forward without autograd, and forward with backward, of the contenders that are right."""
    torch.manual_seed(0)
    with using(threads):
        problem = Problem(case)
        routers = baselines.routers(names)
        verdicts = problem.verdicts(routers)
        steps = problem.steps(routers, verdicts)
        if "operator" in names and verdicts.get("fused") in ("right", None):
            steps["operator", "forward"] = problem.operator_forward()
            steps["operator", "forward+backward"] = problem.operator_both()
        steps |= {key: step for key, step in floors(problem).items() if key[0] in names}
        times = contest(steps, rounds)
    return list(timed_rows(head(case, threads), PARTS, names, verdicts, times))
