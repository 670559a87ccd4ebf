"""GPU time of routers: fused, eager loops, eager stacked, and a copy of as many bytes."""

from __future__ import annotations

from typing import Any

import torch

import mpkernels as mpk
from benchmarks import baselines
from benchmarks.cases import LAYOUTS, Case
from benchmarks.gpu.steps.graphs import calls_for, captured, timed
from benchmarks.measure import Step
from benchmarks.problem import HIDDEN, Problem
from benchmarks.workload import copy_step
from mpkernels.ops.layout import geometry_of
from mpkernels.ops.onchip import on_chip
from mpkernels.triton import cross_connect as launcher
from mpkernels.triton.launch import Walk, card_of, cross_connect_launch
from proof.problems.networks import NETWORKS

# Networks whose routers are timed, each with the batch of its recipe.
TIMED = {"basecnn_3_cc": 128, "resnet20_3_cc": 64, "resnet18_2_cc": 32}
PARTS = ("forward", "backward", "both")


def _timed() -> dict[str, Case]:
    routers = dict.fromkeys(
        Case(batch, *router[1:]) for name, batch in TIMED.items() for router in NETWORKS[name]
    )
    routers[Case(128, 64, (8, 8), 2, 2)] = None
    cases = {}
    for layout in LAYOUTS:
        for router in routers:
            for dtype in ("fp32", "bf16"):
                if router.spatial or layout == LAYOUTS[0]:
                    case = router._replace(dtype=dtype, layout=layout)
                    cases[str(case)] = case
    return cases


CASES = _timed()


def cases() -> list[str]:
    """A router, a dtype and a layout."""
    return list(CASES)


def rotated(case: Case) -> list[Problem]:
    """Problems of one shape that together exceed the L2 cache; parameters are float32."""
    first = Problem(case, "cuda", torch.float32)
    count = calls_for(first.floor()[0])
    return [first, *(Problem(case, "cuda", torch.float32) for _ in range(count - 1))]


def part_of(problem: Problem, router: baselines.Router, part: str) -> Step:
    """A call of the router: forward alone, backward alone by autograd, or both."""
    if part == "forward":
        return problem.forward(router)
    return problem.both(router) if part == "both" else problem.backward_of(router)


def graph_of(problems: list[Problem], router: Any, part: str) -> Step:
    """All problems' calls as one graph."""
    return captured([part_of(problem, router, part) for problem in problems])


def copies(problems: list[Problem]) -> dict[str, Step]:
    """Per part a graph of copies that move as many bytes as its floor."""
    forward, backward = problems[0].floor()
    graphs = {}
    for part, moved in zip(PARTS, (forward, backward, forward + backward)):
        graphs[f"copy {part}"] = captured([copy_step(p.plain[0], moved) for p in problems])
    return graphs


def on_chip_graphs(problems: list[Problem]) -> dict[str, Step]:
    """CUDA C++ where it keeps samples on chip that Triton walks twice."""
    case, x = problems[0].case, problems[0].plain[0]
    sizes = (case.inputs, case.outputs, HIDDEN, x.dtype.itemsize)
    card, geometry, graphs = card_of(x.device), geometry_of(x), {}
    for part in PARTS[:2]:
        backward = part == "backward"
        walked = isinstance(cross_connect_launch(geometry, *sizes, card, backward), Walk)
        chip = card.chip and on_chip(geometry, *sizes, card.chip, backward)
        if walked and chip:
            with launcher.forced(chip):
                graphs[f"on chip {part}"] = graph_of(problems, baselines.fused, part)
    return graphs


def run(name: str) -> dict[str, Any]:
    """Checks the contenders of a case, then times the right ones."""
    case = CASES[name]
    problems = rotated(case)
    contenders = {"fused": baselines.fused, "loops": baselines.loops, "stacked": baselines.stacked}
    verdicts = problems[0].verdicts(contenders)
    router = mpk.CrossConnect(case.channels, case.inputs, case.outputs)
    method = mpk.explain(router, problems[0].plain, "cuda").kernels[0].method
    row = {"method": method, "verdicts": verdicts, "right": verdicts["fused"] == "right"}
    if not row["right"]:
        return row
    graphs = {
        f"{name} {part}": graph_of(problems, of, part)
        for name, of in contenders.items()
        if verdicts[name] == "right"
        for part in PARTS
    }
    graphs |= on_chip_graphs(problems) | copies(problems)
    return row | {
        "calls": len(problems),
        "floor_bytes": problems[0].floor(),
        "microseconds": timed(graphs, len(problems)),
    }
