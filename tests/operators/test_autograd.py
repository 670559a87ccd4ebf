"""Gradients through PyTorch's machinery: higher orders, torch.func, subsets, reuse."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import mpkernels as mpk
from mpkernels import eager, functional
from proof.problems import calls
from proof.problems.cases import (
    Case,
    make_combine_parameters,
    make_parameters,
    make_paths,
    make_predictions,
)
from proof.where import INTERPRETED

SMALL = [
    Case("map", "", batch=2, channels=3, spatial=(2, 3), hidden=4, dtype=torch.float64),
    Case("vector", "", batch=2, channels=3, spatial=(), hidden=4, dtype=torch.float64),
    Case("one_to_many", "", batch=2, channels=2, spatial=(3,), inputs=1, hidden=3,
         dtype=torch.float64, layout="channels_last", bias=False),
]  # fmt: skip
if INTERPRETED:  # hundreds of evaluations, each a tenth of a second in the interpreter
    pytest.skip("finite differences are too slow in the interpreter", allow_module_level=True)


def problem(name, case, functions=functional):
    """The operator as a function of all its tensors, and the tensors."""
    paths, rest = calls.arguments(name, case)

    def function(*flat):
        values = iter(flat[len(paths) :])
        others = [None if t is None else next(values) for t in rest]
        return tuple(calls.call(name, functions, list(flat[: len(paths)]), others))

    return function, (*paths, *(t for t in rest if t is not None))


@pytest.mark.parametrize("name", calls.NAMES)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_finite_differences(case, name, backend):
    function, flat = problem(name, case)
    assert gradcheck(function, flat)
    if backend != "eager":  # its second derivatives are PyTorch's own
        assert gradgradcheck(function, flat)


@pytest.mark.parametrize("folded", [False, True])
def test_finite_differences_of_combine_without_relu(folded, backend):
    us, parameters = make_predictions(SMALL[0]), make_combine_parameters(SMALL[0], folded)
    present = [p for p in parameters.values() if p is not None]

    def combine(*flat):
        gates, bias, *rest = flat[len(us) :]
        scale, shift = rest or (None, None)
        return tuple(functional.combine(list(flat[: len(us)]), gates, bias, False, scale, shift))

    assert gradcheck(combine, (*us, *present))
    if backend != "eager":
        assert gradgradcheck(combine, (*us, *present))


@pytest.mark.parametrize("name", calls.NAMES)
def test_third_order(name, backend):
    function, flat = problem(name, SMALL[0])
    definition, _ = problem(name, SMALL[0], eager)

    def third(function):
        value = sum(y.pow(2).sum() for y in function(*flat))
        for _ in range(3):
            grads = torch.autograd.grad(value, flat, create_graph=True, allow_unused=True)
            value = sum(g.pow(2).sum() for g in grads if g is not None)
        return value

    actual, expected = third(function), third(definition)
    assert (actual - expected).abs() <= 2**-53 * 1e6 * expected.abs()


@pytest.mark.parametrize("name", calls.NAMES)
def test_one_tensor_as_two_paths(name, backend):
    (x, _), rest = calls.arguments(name, SMALL[0])

    def first_and_second(functions):
        outputs = calls.call(name, functions, [x, x], rest)
        value = sum(y.pow(k + 2).sum() for k, y in enumerate(outputs))
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        return first, *torch.autograd.grad(first.pow(2).sum(), x)

    for a, e in zip(first_and_second(functional), first_and_second(eager)):
        assert (a - e).abs().max() <= 2**-53 * 1e6 * e.abs().max()


def test_torch_func(backend):
    router = mpk.CrossConnect(3, 2, 2).double()
    xs = [torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(2)]

    def loss(parameters, a, b):
        ys, gates = torch.func.functional_call(router, parameters, ([a, b], True))
        return ys[0].pow(2).sum() + gates.pow(3).sum()

    parameters = {name: p.detach() for name, p in router.named_parameters()}
    actual = torch.func.grad(loss, argnums=(0, 1))(parameters, *xs)
    value, pull_back = torch.func.vjp(loss, parameters, *xs)
    pulled = pull_back(torch.ones((), dtype=torch.float64))
    mpk.unfuse(router)
    expected = torch.func.grad(loss, argnums=(0, 1))(parameters, *xs)
    for name, e in expected[0].items():
        for a in (actual[0][name], pulled[0][name]):
            assert (a - e).abs().max() <= 2**-53 * 1e6 * e.abs().max(), name
    for a in (actual[1], pulled[1]):
        assert (a - expected[1]).abs().max() <= 2**-53 * 1e6 * expected[1].abs().max()


@pytest.mark.parametrize("name", calls.NAMES)
def test_torch_func_of_every_operator(name, backend):
    function, flat = problem(name, SMALL[0])
    definition, _ = problem(name, SMALL[0], eager)
    flat, every = [t.detach() for t in flat], tuple(range(len(flat)))

    def loss(function):
        return lambda *flat: sum(y.pow(2).sum() for y in function(*flat))

    actual = torch.func.grad(loss(function), argnums=every)(*flat)
    _, pull_back = torch.func.vjp(loss(function), *flat)
    expected = torch.func.grad(loss(definition), argnums=every)(*flat)
    for a, pulled, e in zip(actual, pull_back(torch.ones((), dtype=torch.float64)), expected):
        assert (a - e).abs().max() <= 2**-53 * 1e6 * e.abs().max()
        assert torch.equal(a, pulled)


def test_activation_checkpointing(backend):
    router = mpk.CrossConnect(3, 2, 2)
    xs = [torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2)]

    def gradients(ys):
        return torch.autograd.grad(ys[0].sum() + ys[1].pow(2).sum(), [*xs, *router.parameters()])

    plain = gradients(router(xs))
    again = gradients(checkpoint(lambda a, b: router([a, b]), *xs, use_reentrant=False))
    assert all(torch.equal(a, b) for a, b in zip(plain, again))


def test_only_the_wanted_gradients_are_computed(backend):
    case = Case("", "", channels=4)
    xs, parameters = make_paths(case), list(make_parameters(case).values())
    *ys, gates, pooled = torch.ops.mpkernels.cross_connect(xs, parameters, 0)
    with torch.no_grad():
        for wanted in ([True, False] + [False] * 4, [False, True, True, False, False, True]):
            grad_xs, grad_parameters = calls.call_backward(
                "cross_connect", [*ys, None], [gates, pooled], xs, (parameters, 0), wanted
            )
            assert len(grad_xs) == sum(wanted[:2])
            shapes = [p.shape for p, w in zip(parameters, wanted[2:]) if w]
            assert [g.shape for g in grad_parameters] == shapes
        flags = [False, False, True]
        grad_xs, grad_gates = calls.call_backward("mix", ys, [], xs, (gates,), flags)
        assert len(grad_xs) == 0 and grad_gates[0].shape == gates.shape
    us, flat = make_predictions(case), list(make_combine_parameters(case).values())
    with torch.no_grad():
        for wanted in ([True, False, False, True, True, False], [False] * 4 + [False, True]):
            grad_us, grad_parameters = calls.call_backward(
                "combine", ys, [], us, calls.packed("combine", flat), wanted
            )
            assert [g.shape for g in grad_us] == [u.shape for u, w in zip(us, wanted) if w]
            shapes = [p.shape for p, w in zip(flat, wanted[2:]) if w]
            assert [g.shape for g in grad_parameters] == shapes


@pytest.mark.parametrize("name", calls.NAMES)
def test_no_maps_are_saved_but_the_inputs(name, backend):
    paths, rest = calls.arguments(name, Case("", "", channels=8, spatial=(16, 16)))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        calls.call(name, functional, paths, rest)
    maps = {t.data_ptr() for t in saved if t.numel() >= paths[0].numel()}
    assert maps <= {x.data_ptr() for x in paths}


@pytest.mark.parametrize("name", calls.NAMES)
def test_inputs_and_gradients_are_left_as_they_were(name, backend):
    paths, rest = calls.arguments(name, Case("", "", channels=3))
    inputs = [t for t in (*paths, *rest) if t is not None]
    before = [t.detach().clone() for t in inputs]
    outputs = calls.call(name, functional, paths, rest)
    grads = [torch.randn_like(y) for y in outputs]
    copies = [g.clone() for g in grads]
    torch.autograd.backward(outputs, grads)
    assert all(torch.equal(a, b) for a, b in zip([*inputs, *grads], [*before, *copies]))


def test_more_paths_than_an_integer_has_flags(backend):
    """Those beyond share the last flag; a gradient that nobody wants is dropped."""
    if INTERPRETED:
        pytest.skip("compiling so many paths takes the interpreter a minute")
    xs = [torch.randn(2, 3, dtype=torch.float64) for _ in range(70)]
    gates = torch.rand(2, 70, 2, dtype=torch.float64)
    for wanted in ([0, 61, 62, 69, 70], [63], [62, 64], [70]):
        leaves = [t.clone().requires_grad_(q in wanted) for q, t in enumerate((*xs, gates))]
        results = []
        for functions in (functional, eager):
            ys = functions.mix(leaves[:-1], leaves[-1])
            results.append(
                torch.autograd.grad(sum(y.pow(2).sum() for y in ys), [leaves[q] for q in wanted])
            )
        assert all(map(torch.allclose, *results))
