"""Checks of every operator, forward and backward, against float64.

Each check runs the operator on the active backend in the precision of its case. It compares every
element of every result with its float64 value within the derived bound, and each tensor as a whole
within the statistical one.
"""

from __future__ import annotations

from functools import partial

import torch

from mpkernels import functional
from proof import expected
from proof.closeness import ROUNDOFF, assert_close, check_both, exact, rounded
from proof.problems import layers
from proof.problems.cases import (
    make_combine_parameters,
    make_gates,
    make_grad_ys,
    make_parameters,
    make_paths,
    make_predictions,
)

# Kinds of combine: whether scale and shift are present, and whether a ReLU is.
COMBINED = {"relu": (False, True), "folded_relu": (True, True), "folded": (True, False)}


def backward(outputs, grads):
    """Runs autograd from the outputs that have a gradient."""
    pairs = [(y, g) for y, g in zip(outputs, grads) if g is not None and y.requires_grad]
    if pairs:
        torch.autograd.backward([y for y, _ in pairs], [g for _, g in pairs])


def wide(tensors):
    """A list or a dict of tensors, some None, in float64."""
    if isinstance(tensors, dict):
        return {name: exact(t) for name, t in tensors.items()}
    return [exact(t) for t in tensors]


def compare(case, outputs, leaves, compute, reached=True):
    """Compares outputs and gradients of leaves with `compute(a)`, under both kinds of bounds.

    Args:
        case: the problem; only its dtype is read.
        outputs: tensors by name.
        leaves: tensors by name; each that requires a gradient must have one if `reached`.
        compute: gives the expected values by name, for a unit roundoff.
        reached: whether any gradient flows back to the leaves.
    """
    accumulate = torch.float64 if case.dtype == torch.float64 else torch.float32

    def compare_once():
        references = compute(ROUNDOFF[accumulate])
        for name, t in outputs.items():
            assert name == "gates" or t.dtype == case.dtype
            value, error = references[name].value, references[name].error
            assert_close(name, t, value, rounded(value, error, t.dtype, accumulate))
        for name, leaf in leaves.items():
            if not leaf.requires_grad or not reached:
                assert leaf.grad is None, name
                continue
            name = f"grad_{name}"
            value, error = references[name].value, references[name].error
            assert_close(name, leaf.grad, value, rounded(value, error, leaf.dtype, accumulate))

    check_both(compare_once)


def named(letter, tensors):
    """The tensors by name: x0, x1, ... for the letter x."""
    return {f"{letter}{index}": t for index, t in enumerate(tensors)}


def present(parameters):
    return {name: p for name, p in parameters.items() if p is not None}


def check_cross_connect(case, kind="softmax"):
    xs, parameters = make_paths(case), make_parameters(case)
    ys, gates = functional.cross_connect(xs, *parameters.values(), kind=kind)
    grad_ys, grad_gates = make_grad_ys(case, ys), torch.randn(gates.shape).to(gates)
    backward([*ys, gates], [*grad_ys, grad_gates])
    arguments = wide(xs), wide(parameters), wide(grad_ys), exact(grad_gates), kind
    compare(
        case, named("y", ys) | {"gates": gates}, named("x", xs) | present(parameters),
        lambda a: expected.cross_connect(*arguments, a),
    )  # fmt: skip


def check_gate(case, kind="softmax"):
    xs, parameters = make_paths(case), make_parameters(case)
    gates = functional.gate(xs, *parameters.values(), kind=kind)
    grad_gates = torch.randn(gates.shape).to(gates)
    backward([gates], [grad_gates])
    arguments = wide(xs), wide(parameters), exact(grad_gates), kind
    compare(
        case, {"gates": gates}, named("x", xs) | present(parameters),
        lambda a: expected.gate(*arguments, a),
    )  # fmt: skip


def check_mix(case, by_channel=False):
    xs, gates = make_paths(case), make_gates(case, by_channel)
    ys = functional.mix(xs, gates)
    grad_ys = make_grad_ys(case, ys)
    backward(ys, grad_ys)
    arguments = wide(xs), exact(gates), wide(grad_ys)
    compare(
        case, named("y", ys), named("x", xs) | {"gates": gates},
        lambda a: expected.mix(*arguments, a), any(grad is not None for grad in grad_ys),
    )  # fmt: skip


def check_combine(case, kind="folded_relu"):
    folded, relu = COMBINED[kind]
    us, parameters = make_predictions(case), make_combine_parameters(case, folded)
    gates, bias, scale, shift = parameters.values()
    ys = functional.combine(us, gates, bias, relu, scale, shift)
    grad_ys = make_grad_ys(case, ys)
    backward(ys, grad_ys)
    arguments = wide(us), wide(parameters), relu, wide(grad_ys)
    compare(
        case, named("y", ys), named("u", us) | present(parameters),
        lambda a: expected.combine(*arguments, a), any(grad is not None for grad in grad_ys),
    )  # fmt: skip


def check_cross_predict(layer, kind="softmax"):
    xs, parameters = layers.problem(layer)
    ys, gates = layers.run(partial(functional.cross_predict, kind=kind), layer, xs, parameters)
    *grad_ys, grad_gates = grads = layers.gradients_of(layer, ys, gates)
    backward([*ys, gates], grads)
    assert all(y.is_contiguous() for y in ys)
    leaves = named("x", xs) | present(parameters)
    if layer.gradient == "gates_only":  # the products and what follows them get no gradient
        gate_leaves = {*named("x", xs), "w1", "b1", "w2", "b2"}
        leaves = {k: t for k, t in leaves.items() if k in gate_leaves or t.grad is not None}
    arguments = wide(xs), wide(parameters), wide(grad_ys), exact(grad_gates), kind
    compare(
        layer, named("y", ys) | {"gates": gates}, leaves,
        lambda a: expected.cross_predict(layer, *arguments, a),
    )  # fmt: skip
