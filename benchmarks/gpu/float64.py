"""What an operator must return: values in float64, with a bound on each element's error."""

from __future__ import annotations

from collections.abc import Iterator

import closeness
import torch
from closeness import ROUNDOFF, Bounded, CombineBounds, GateBounds, gamma
from torch import Tensor

from benchmarks.gpu.drawn import COMBINED, Problem

Expected = dict[str, tuple[Tensor, Tensor]]


def _gate_gradients(
    bounds: GateBounds, d: Bounded, problem: Problem, grad_ys: Tensor | None
) -> Iterator[tuple[str, Tensor, Tensor]]:
    da, dh, dz = bounds.backward(d)
    for name, gradient in bounds.parameters(da, dh).items():
        yield f"grad_{name}", gradient.value, gradient.error
    for i, x in enumerate(problem.xs):
        trailing = (...,) + (None,) * (x.dim() - 2)
        value = (dz.value[:, i] / bounds.positions)[trailing].expand(x.shape)
        error = dz.error[:, i] + 3 * bounds.a * dz.value[:, i].abs()
        error = (error / bounds.positions)[trailing].expand(x.shape)
        if grad_ys is not None:
            g = closeness.over_maps(bounds.g.value, x.dim())[i]
            value = value + (g * grad_ys).sum(0)
            mixed = closeness.mixed_error(bounds.g, grad_ys, bounds.a, transposed=True)[i]
            error = error + mixed + gamma(len(grad_ys) + 3, bounds.a) * value.abs()
        yield f"grad_x{i}", value, error


def _gated(operator: str, problem: Problem, a: float) -> Iterator[tuple[str, Tensor, Tensor]]:
    xs = [x.detach().double() for x in problem.xs]
    bounds = GateBounds(xs, [p.detach().double() for p in problem.parameters], a)
    yield "gates", bounds.g.value, bounds.g.error
    direct = problem.grad_gates.double()
    if operator == "gate":
        yield from _gate_gradients(bounds, Bounded(direct, torch.zeros_like(direct)), problem, None)
        return
    maps, outer = torch.stack(xs), torch.stack([y.double() for y in problem.grad_ys])
    weights = closeness.over_maps(bounds.g.value, xs[0].dim())
    for j, error in enumerate(closeness.mixed_error(bounds.g, maps, a)):
        yield f"y{j}", (weights[:, j] * maps).sum(0), error
    dims = tuple(range(1, xs[0].dim()))
    value = torch.stack([torch.stack([(x * dy).sum(dims) for dy in outer], -1) for x in maps], 1)
    error = torch.stack(
        [torch.stack([closeness.dot_bound(x, dy, a, dims) for dy in outer], -1) for x in maps], 1
    )
    total = Bounded(value + direct, error + 3 * a * (value.abs() + direct.abs()))
    yield from _gate_gradients(bounds, total, problem, outer)


def _mixed(operator: str, problem: Problem, a: float) -> Iterator[tuple[str, Tensor, Tensor]]:
    by_channel = operator == "mix by channel"
    g = (problem.channel_gates if by_channel else problem.gates).detach().double()
    maps = torch.stack([x.detach().double() for x in problem.xs])
    outer = torch.stack([y.double() for y in problem.grad_ys])
    dims = maps.dim() - 1
    weights = g.permute(1, 2, 0, *range(3, g.dim()))[(...,) + (None,) * (dims - g.dim() + 2)]
    terms = gamma(len(maps) + 3, a)
    for j in range(len(outer)):
        products = weights[:, j] * maps
        yield f"y{j}", products.sum(0), terms * products.abs().sum(0)
    terms = gamma(len(outer) + 3, a)
    for i in range(len(maps)):
        products = weights[i] * outer
        yield f"grad_x{i}", products.sum(0), terms * products.abs().sum(0)
    summed = tuple(range(2 if by_channel else 1, dims))
    values = [[(x * dy).sum(summed) if summed else x * dy for dy in outer] for x in maps]
    errors = [
        [closeness.dot_bound(x, dy, a, summed) if summed else 3 * a * (x * dy).abs()
         for dy in outer] for x in maps
    ]  # fmt: skip
    value, error = (
        torch.stack([torch.stack(row, 1) for row in rows], 1) for rows in (values, errors)
    )
    yield "grad_gates", value, error


def _combined(operator: str, problem: Problem, a: float) -> Iterator[tuple[str, Tensor, Tensor]]:
    wide = [t.detach().double() for t in (*problem.us, problem.gates, *problem.combined)]
    m = len(problem.us)
    bounds = CombineBounds(wide[:m], wide[m:], True, a)
    for j, (value, error) in enumerate(zip(bounds.y.value, bounds.y.error)):
        yield f"y{j}", value, error
    gradients = bounds.backward(torch.stack([y.double() for y in problem.grad_ys]))
    for i, (value, error) in enumerate(zip(gradients["us"].value, gradients["us"].error)):
        yield f"grad_u{i}", value, error
    for name in ("gates", *COMBINED):
        yield f"grad_{name}", gradients[name].value, gradients[name].error


def expected(operator: str, problem: Problem) -> Expected:
    """Of each result of `run_operator` the value in float64 and the bound on each error."""
    dtype = problem.xs[0].dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rule = {"gate": _gated, "cross_connect": _gated, "combine": _combined}.get(operator, _mixed)
    results = {}
    for name, value, error in rule(operator, problem, ROUNDOFF[wide]):
        to = dtype if name.startswith(("y", "grad_x", "grad_u")) else wide
        results[name] = (value, closeness.rounded(value, error, to, wide))
    return results


def shares(results: dict[str, Tensor], exact: Expected) -> dict[str, float]:
    """The largest error of each tensor as a share of its bound; infinite for NaN or no tensor."""
    largest = {}
    for name, (value, bound) in exact.items():
        if name not in results or results[name].shape != value.shape:
            largest[name] = float("inf")
            continue
        ratio = (results[name].double() - value).abs() / bound
        largest[name] = ratio.nan_to_num(float("inf")).max().item()
    return largest
