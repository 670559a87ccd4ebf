"""Checks of an operator, forward and backward: outputs and gradients against float64.

Each runs the operator on the backend that is in force, in the precision of its case, and compares
every result, element by element, with the definition in float64 within the derived bound, and as a
whole with the statistical one.
"""

from __future__ import annotations

import torch

from mpkernels import functional
from proof.closeness import (
    ROUNDOFF,
    Bounded,
    CombineBounds,
    GateBounds,
    assert_close,
    check_both,
    dot_bound,
    exact,
    gamma,
    mixed_error,
    over_maps,
    rounded,
)
from proof.problems.cases import (
    make_combine_parameters,
    make_gates,
    make_grad_ys,
    make_parameters,
    make_paths,
    make_predictions,
)


def accumulate(case):
    return torch.float64 if case.dtype == torch.float64 else torch.float32


def backward(outputs, gradients):
    kept = [(y, g) for y, g in zip(outputs, gradients) if g is not None and y.requires_grad]
    if kept:
        torch.autograd.backward([y for y, _ in kept], [g for _, g in kept])


def stacked(tensors, shape):
    return torch.stack([torch.zeros(shape).double() if t is None else exact(t) for t in tensors])


def check_gate_gradients(case, bounds, d, parameters, xs=None, grad_ys=None):
    """Gradients of parameters, and of maps, for dL/dG = d."""
    da, dh, dz = bounds.backward(d)
    for name, wanted in bounds.parameters(da, dh).items():
        p = parameters[name]
        if p is None:
            continue
        if not p.requires_grad:
            assert p.grad is None, name
            continue
        bound = rounded(wanted.value, wanted.error, p.dtype, accumulate(case))
        assert_close(f"grad_{name}", p.grad, wanted.value, bound)
    positions, a = bounds.positions, bounds.a
    for i, x in enumerate(xs):
        if not x.requires_grad:
            assert x.grad is None, f"x{i}"
            continue
        trailing = (...,) + (None,) * (x.dim() - 2)
        value = (dz.value[:, i] / positions)[trailing].expand(x.shape)
        error = ((dz.error[:, i] + 3 * a * dz.value[:, i].abs()) / positions)[trailing]
        error = error.expand(x.shape)
        if grad_ys is not None:
            g = over_maps(bounds.g.value, x.dim())[i]
            value = value + (g * grad_ys).sum(0)
            mixed = mixed_error(bounds.g, grad_ys, a, transposed=True)[i]
            error = error + mixed + gamma(len(grad_ys) + 3, a) * value.abs()
        assert_close(f"grad_x{i}", x.grad, value, rounded(value, error, x.dtype, accumulate(case)))


def check_cross_connect(case):
    xs, parameters = make_paths(case), make_parameters(case)
    ys, gates = functional.cross_connect(xs, *parameters.values())
    grad_ys, grad_gates = make_grad_ys(case, ys), torch.randn(gates.shape).to(gates)
    backward([*ys, gates], [*grad_ys, grad_gates])

    def compare():
        a = ROUNDOFF[accumulate(case)]
        bounds = GateBounds([exact(x) for x in xs], [exact(p) for p in parameters.values()], a)
        assert_close("gates", gates, bounds.g.value,
                     rounded(bounds.g.value, bounds.g.error, gates.dtype, gates.dtype))  # fmt: skip
        maps = torch.stack([exact(x) for x in xs])
        weights, errors = over_maps(bounds.g.value, xs[0].dim()), mixed_error(bounds.g, maps, a)
        for j, y in enumerate(ys):
            assert y.dtype == case.dtype
            wanted = (weights[:, j] * maps).sum(0)
            assert_close(f"y{j}", y, wanted, rounded(wanted, errors[j], y.dtype, accumulate(case)))

        outer = stacked(grad_ys, xs[0].shape)
        dims = tuple(range(1, xs[0].dim()))
        value = torch.stack(
            [torch.stack([(x * dy).sum(dims) for dy in outer], -1) for x in maps], 1
        )  # [B, m, n]
        error = torch.stack(
            [torch.stack([dot_bound(x, dy, a, dims) for dy in outer], -1) for x in maps], 1
        )
        direct = exact(grad_gates)
        d = Bounded(value + direct, error + 3 * a * (value.abs() + direct.abs()))
        check_gate_gradients(case, bounds, d, parameters, xs, outer)

    check_both(compare)


def check_gate(case):
    xs, parameters = make_paths(case), make_parameters(case)
    gates = functional.gate(xs, *parameters.values())
    grad_gates = torch.randn(gates.shape).to(gates)
    backward([gates], [grad_gates])

    def compare():
        a = ROUNDOFF[accumulate(case)]
        bounds = GateBounds([exact(x) for x in xs], [exact(p) for p in parameters.values()], a)
        assert_close("gates", gates, bounds.g.value,
                     rounded(bounds.g.value, bounds.g.error, gates.dtype, gates.dtype))  # fmt: skip
        d = Bounded(exact(grad_gates), torch.zeros(gates.shape).double())
        check_gate_gradients(case, bounds, d, parameters, xs)

    check_both(compare)


def check_mix(case, by_channel=False):
    xs, gates = make_paths(case), make_gates(case, by_channel)
    ys = functional.mix(xs, gates)
    grad_ys = make_grad_ys(case, ys)
    backward(ys, grad_ys)

    def compare():
        a, dims = ROUNDOFF[accumulate(case)], xs[0].dim()
        maps, g = torch.stack([exact(x) for x in xs]), exact(gates)
        weights = g.permute(1, 2, 0, *range(3, g.dim()))[(...,) + (None,) * (dims - g.dim() + 2)]
        terms = gamma(len(xs) + 3, a)
        for j, y in enumerate(ys):
            wanted = (weights[:, j] * maps).sum(0)
            error = terms * (weights[:, j] * maps).abs().sum(0)
            assert_close(f"y{j}", y, wanted, rounded(wanted, error, y.dtype, accumulate(case)))
        outer, terms = stacked(grad_ys, xs[0].shape), gamma(len(ys) + 3, a)
        used = any(grad is not None for grad in grad_ys)
        for i, x in enumerate(xs):
            if not x.requires_grad or not used:
                assert x.grad is None
                continue
            wanted = (weights[i] * outer).sum(0)
            error = terms * (weights[i] * outer).abs().sum(0)
            bound = rounded(wanted, error, x.dtype, accumulate(case))
            assert_close(f"grad_x{i}", x.grad, wanted, bound)
        if not gates.requires_grad or not used:
            assert gates.grad is None
            return
        summed = tuple(range(2 if by_channel else 1, dims))
        for i, x in enumerate(maps):
            for j, dy in enumerate(outer):
                wanted = (x * dy).sum(summed) if summed else x * dy
                error = dot_bound(x, dy, a, summed) if summed else 3 * a * wanted.abs()
                bound = rounded(wanted, error, gates.dtype, accumulate(case))
                assert_close(f"grad_g{i}{j}", gates.grad[:, i, j], wanted, bound)

    check_both(compare)


# Whether scale and shift are there, and whether a ReLU is.
COMBINED = {"relu": (False, True), "folded_relu": (True, True), "folded": (True, False)}


def check_combine(case, kind="folded_relu"):
    folded, relu = COMBINED[kind]
    us, parameters = make_predictions(case), make_combine_parameters(case, folded)
    gates, bias, scale, shift = parameters.values()
    ys = functional.combine(us, gates, bias, relu, scale, shift)
    grad_ys = make_grad_ys(case, ys)
    backward(ys, grad_ys)

    def compare():
        a = ROUNDOFF[accumulate(case)]
        flat = [exact(p) for p in parameters.values()]
        bounds = CombineBounds([exact(u) for u in us], flat, relu, a)
        for j, y in enumerate(ys):
            assert y.dtype == case.dtype
            wanted = bounds.y.value[j]
            bound = rounded(wanted, bounds.y.error[j], y.dtype, accumulate(case))
            assert_close(f"y{j}", y, wanted, bound)
        used = any(grad is not None for grad in grad_ys)
        found = bounds.backward(stacked(grad_ys, ys[0].shape))
        of_us = zip(found["us"].value, found["us"].error)
        results = [(f"u{i}", u, Bounded(*bound)) for i, (u, bound) in enumerate(zip(us, of_us))]
        results += [(k, p, found[k]) for k, p in parameters.items() if p is not None]
        for name, leaf, wanted in results:
            if not leaf.requires_grad or not used:
                assert leaf.grad is None, name
                continue
            bound = rounded(wanted.value, wanted.error, leaf.dtype, accumulate(case))
            assert_close(f"grad_{name}", leaf.grad, wanted.value, bound)

    check_both(compare)
