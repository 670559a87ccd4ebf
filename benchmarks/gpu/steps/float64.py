"""What an operator must return: values in float64, and the bound of each element's error."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.steps.drawn import COMBINED, PARAMETERS, Problem
from proof import expected as expected_of
from proof.closeness import ROUNDOFF, rounded

Expected = dict[str, tuple[Tensor, Tensor]]


def expected(operator: str, problem: Problem) -> Expected:
    """What `run_operator` must return: values in float64 and the bound of each element's error."""
    dtype = problem.xs[0].dtype
    accumulate = torch.float64 if dtype == torch.float64 else torch.float32
    results = {}
    for name, each in _results(operator, problem, ROUNDOFF[accumulate]).items():
        to = dtype if name.startswith(("y", "grad_x", "grad_u")) else accumulate
        results[name] = (each.value, rounded(each.value, each.error, to, accumulate))
    return results


def _results(operator: str, problem: Problem, a: float) -> expected_of.Expected:
    def wide(tensors: list[Tensor]) -> list[Tensor]:
        return [t.detach().double() for t in tensors]

    xs, parameters = wide(problem.xs), dict(zip(PARAMETERS, wide(problem.parameters)))
    grad_ys, (gates, by_channel, grad_gates) = (
        wide(problem.grad_ys),
        wide([problem.gates, problem.channel_gates, problem.grad_gates]),
    )
    if operator == "cross_connect":
        return expected_of.cross_connect(xs, parameters, grad_ys, grad_gates, "softmax", a)
    if operator == "gate":
        return expected_of.gate(xs, parameters, grad_gates, "softmax", a)
    if operator == "combine":
        combined = {"gates": gates} | dict(zip(COMBINED, wide(problem.combined)))
        return expected_of.combine(wide(problem.us), combined, True, grad_ys, a)
    return expected_of.mix(xs, by_channel if operator == "mix by channel" else gates, grad_ys, a)


def shares(results: dict[str, Tensor], expected: Expected) -> dict[str, float]:
    """The largest error of each tensor as a share of its bound; infinite for NaN or no tensor."""
    found = {}
    for name, (value, bound) in expected.items():
        if name not in results or results[name].shape != value.shape:
            found[name] = float("inf")
            continue
        ratio = (results[name].double() - value).abs() / bound
        found[name] = ratio.nan_to_num(float("inf")).max().item()
    return found
