"""What each operator must return, by name: outputs and gradients in float64, each with its bound.

All arguments are float64 on one device; a gradient of None counts as zeros. `a` is the unit
roundoff of the accumulate dtype.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from proof.bounds import (
    Bounded,
    CombineBounds,
    GateBounds,
    PredictBounds,
    dot_bound,
    mixed_error,
    over_maps,
)
from proof.closeness import gamma
from proof.problems.layers import Layer

Expected = dict[str, Bounded]
Parameters = dict[str, "Tensor | None"]


def _stacked(grads: Sequence[Tensor | None], like: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(like) if g is None else g for g in grads])


def _gate_gradients(
    bounds: GateBounds, xs: list[Tensor], d: Bounded, outer: Tensor | None = None
) -> Expected:
    """Gradients of parameters and paths, given d = dL/dG and `outer` = dL/dY."""
    da, dh, dz = bounds.backward(d)
    grads = {f"grad_{name}": b for name, b in bounds.parameters(da, dh).items()}
    positions, a = bounds.positions, bounds.a
    for i, x in enumerate(xs):
        trailing = (...,) + (None,) * (x.dim() - 2)
        value = (dz.value[:, i] / positions)[trailing].expand(x.shape)
        error = (dz.error[:, i] + 3 * a * dz.value[:, i].abs()) / positions
        error = error[trailing].expand(x.shape)
        if outer is not None:
            value = value + (over_maps(bounds.g.value, x.dim())[i] * outer).sum(0)
            mixed = mixed_error(bounds.g, outer, a, transposed=True)[i]
            error = error + mixed + gamma(len(outer) + 3, a) * value.abs()
        grads[f"grad_x{i}"] = Bounded(value, error)
    return grads


def gate(
    xs: list[Tensor], parameters: Parameters, grad_gates: Tensor, kind: str, a: float
) -> Expected:
    """Results of `gate`."""
    bounds = GateBounds(xs, list(parameters.values()), a, kind)
    d = Bounded(grad_gates, torch.zeros_like(grad_gates))
    return {"gates": bounds.g} | _gate_gradients(bounds, xs, d)


def cross_connect(
    xs: list[Tensor],
    parameters: Parameters,
    grad_ys: Sequence[Tensor | None],
    grad_gates: Tensor,
    kind: str,
    a: float,
) -> Expected:
    """Results of `cross_connect`, whose gradients arrive through maps and through gates."""
    bounds = GateBounds(xs, list(parameters.values()), a, kind)
    maps, outer = torch.stack(xs), _stacked(grad_ys, xs[0])
    weights, errors = over_maps(bounds.g.value, xs[0].dim()), mixed_error(bounds.g, maps, a)
    results = {"gates": bounds.g}
    results |= {f"y{j}": Bounded((weights[:, j] * maps).sum(0), e) for j, e in enumerate(errors)}
    dims = tuple(range(1, xs[0].dim()))
    value = torch.stack([torch.stack([(x * dy).sum(dims) for dy in outer], -1) for x in maps], 1)
    error = torch.stack(
        [torch.stack([dot_bound(x, dy, a, dims) for dy in outer], -1) for x in maps], 1
    )
    d = Bounded(value + grad_gates, error + 3 * a * (value.abs() + grad_gates.abs()))
    return results | _gate_gradients(bounds, xs, d, outer)


def mix(xs: list[Tensor], gates: Tensor, grad_ys: Sequence[Tensor | None], a: float) -> Expected:
    """Results of `mix`, with gates per sample [B, m, n] or per channel [B, m, n, C]."""
    maps, outer, dims = torch.stack(xs), _stacked(grad_ys, xs[0]), xs[0].dim()
    trailing = (...,) + (None,) * (dims - gates.dim() + 2)
    weights = gates.permute(1, 2, 0, *range(3, gates.dim()))[trailing]

    def total(products: Tensor) -> Bounded:
        error = gamma(len(products) + 3, a) * products.abs().sum(0)
        return Bounded(products.sum(0), error)

    results = {f"y{j}": total(weights[:, j] * maps) for j in range(len(outer))}
    results |= {f"grad_x{i}": total(weights[i] * outer) for i in range(len(maps))}
    summed = tuple(range(gates.dim() - 2, dims))
    values = [[(x * dy).sum(summed) if summed else x * dy for dy in outer] for x in maps]
    errors = [
        [dot_bound(x, dy, a, summed) if summed else 3 * a * (x * dy).abs() for dy in outer]
        for x in maps
    ]
    value, error = (
        torch.stack([torch.stack(row, 1) for row in rows], 1) for rows in (values, errors)
    )
    return results | {"grad_gates": Bounded(value, error)}


def combine(
    us: list[Tensor],
    parameters: Parameters,
    relu: bool,
    grad_ys: Sequence[Tensor | None],
    a: float,
) -> Expected:
    """Results of `combine`; its parameters are gates, bias, scale and shift."""
    bounds = CombineBounds(us, list(parameters.values()), relu, a)
    y = bounds.y
    results = {f"y{j}": Bounded(*each) for j, each in enumerate(zip(y.value, y.error))}
    grads = bounds.backward(_stacked(grad_ys, y.value[0]))
    grad_us = grads.pop("us")
    pairs = zip(grad_us.value, grad_us.error)
    results |= {f"grad_u{i}": Bounded(*each) for i, each in enumerate(pairs)}
    return results | {f"grad_{name}": bound for name, bound in grads.items()}


def cross_predict(
    layer: Layer,
    xs: list[Tensor],
    parameters: Parameters,
    grad_ys: Sequence[Tensor | None],
    grad_gates: Tensor | None,
    kind: str,
    a: float,
) -> Expected:
    """Results of `cross_predict`, for vectors."""
    bounds = PredictBounds(layer, xs, parameters, a, kind)
    y = bounds.combine.y
    results = {"gates": bounds.gate.g}
    results |= {f"y{j}": Bounded(*each) for j, each in enumerate(zip(y.value, y.error))}
    grads = bounds.backward(layer, _stacked(grad_ys, y.value[0]), grad_gates)
    return results | {f"grad_{name}": bound for name, bound in grads.items()}
