"""Every router of the paper's networks, and the named set, against all contenders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks import baselines
from benchmarks.cases import BARS, Case, network_cases, picked
from benchmarks.cpu.suite import Choice, Row, using
from benchmarks.measure import Step, contest, spread
from benchmarks.problem import Problem, floors

PARTS = ("forward", "forward+backward")
FLOORS = ("copy", "plain loop", "streaming loop", "two-pass loop")
CONTENDERS = (*baselines.ROUTERS, "operator", *FLOORS)


def rows(choice: Choice) -> Iterator[Row]:
    """Of each case with each number of threads a row for each part."""
    cases = dict.fromkeys([*BARS, *(case for d in choice.dtypes for case in network_cases(d))])
    for case in picked(list(cases), choice.text):
        names = choice.only(CONTENDERS)
        if case not in BARS and "max-autotune" in names:
            names.remove("max-autotune")  # it takes another half of a minute each time
        for threads in choice.threads:
            yield from case_rows(case, threads, names, choice.rounds)


def case_rows(case: Case, threads: int, names: list[str], rounds: int) -> list[Row]:
    """Forward without autograd, and forward with backward, of the contenders that are right."""
    torch.manual_seed(0)
    with using(threads):
        problem = Problem(case)
        routers = baselines.routers(names)
        verdicts = problem.verdicts(routers)
        steps: dict[tuple[str, str], Step] = {}
        for name, router in routers.items():
            if verdicts[name] == "right":
                steps[name, "forward"] = problem.forward(router)
                steps[name, "forward+backward"] = problem.both(router)
        if "operator" in names and verdicts.get("fused") in ("right", None):
            steps["operator", "forward"] = problem.operator_forward()
            steps["operator", "forward+backward"] = problem.operator_both()
        steps |= {key: step for key, step in floors(problem).items() if key[0] in names}
        times = contest(steps, rounds)
    made: list[Row] = []
    for part in PARTS:
        values: dict[str, Any] = {n: v for n, v in verdicts.items() if v != "right"}
        values |= {name: spread(t) for (name, of), t in times.items() if of == part}
        made.append(
            {"case": str(case), **case._asdict(), "threads": threads, "part": part, "unit": "us",
             "values": {name: values[name] for name in names if name in values}}
        )  # fmt: skip
    return made
