"""One tensor alone requires a gradient, others are None: it gets its gradient, however called."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mpkernels import eager, functional
from mpkernels.selftest import ARGUMENTS
from proof.problems import calls
from proof.problems.functions import SIZES, values

OPTIONAL = {"b1", "b2", "bias", "scale", "shift"}
ABSENT = ((), ("b1", "b2", "bias", "scale", "shift"), ("b1", "scale", "shift"), ("b2", "bias"))


def by_operator(name, paths, rest):
    return calls.call_operator(name, paths, rest)


def by_dispatch_mode(name, paths, rest):
    with FlopCounterMode(display=False):
        return calls.call(name, functional, paths, rest)


def by_compiled_code(name, paths, rest):
    torch.use_deterministic_algorithms(False)
    torch.compiler.reset()
    compiled = torch.compile(calls.call, backend="aot_eager", fullgraph=True)
    return compiled(name, functional, paths, rest)


CASES = [
    (name, learning, absent)
    for name, shapes in ARGUMENTS.items()
    for absent in ABSENT
    for learning in shapes
    if learning not in absent and (not absent or OPTIONAL & set(shapes) & set(absent))
]


@pytest.mark.parametrize("way", [by_operator, by_dispatch_mode, by_compiled_code])
@pytest.mark.parametrize("name, learning, absent", CASES, ids=str)
def test_the_one_that_learns_has_a_gradient(name, learning, absent, way):
    made = calls.random_arguments(name, SIZES, (2, 2), values)
    made |= {k: None for k in made if k in absent}
    paths, *rest = made.values()
    leaf = paths[0] if learning in ("xs", "us") else made[learning]
    leaf.requires_grad_()

    def gradient(ys):
        return torch.autograd.grad(sum((j + 1) * y.square().sum() for j, y in enumerate(ys)), leaf)

    actual, expected = way(name, paths, rest), calls.call(name, eager, paths, rest)
    assert all(a.requires_grad for a, e in zip(actual, expected) if e.requires_grad)
    torch.testing.assert_close(gradient(actual), gradient(expected))
