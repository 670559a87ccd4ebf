"""Gradients as PyTorch's machinery asks for them: higher orders, torch.func, subsets, reuse."""

import pytest
import torch
from cases import Case, make_gates, make_parameters, make_paths
from conftest import INTERPRETED
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import mpkernels as mpk
from mpkernels import eager, functional

SMALL = [
    Case("map", "", batch=2, channels=3, spatial=(2, 3), hidden=4, dtype=torch.float64),
    Case("vector", "", batch=2, channels=3, spatial=(), hidden=4, dtype=torch.float64),
    Case("one_to_many", "", batch=2, channels=2, spatial=(3,), inputs=1, hidden=3,
         dtype=torch.float64, layout="channels_last", bias=False),
]  # fmt: skip
if INTERPRETED:  # each of hundreds of evaluations takes the interpreter a tenth of a second
    pytest.skip("finite differences are too slow in the interpreter", allow_module_level=True)


def problem(case):
    xs, parameters = make_paths(case), make_parameters(case)
    present = [p for p in parameters.values() if p is not None]

    def unpack(flat):
        values = iter(flat[len(xs) :])
        return list(flat[: len(xs)]), [
            None if p is None else next(values) for p in parameters.values()
        ]

    def cross_connect(*flat):
        maps, gate = unpack(flat)
        ys, gates = functional.cross_connect(maps, *gate)
        return (*ys, gates)

    def gate(*flat):
        maps, parameters = unpack(flat)
        return functional.gate(maps, *parameters)

    return cross_connect, gate, (*xs, *present)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_finite_differences(case, backend):
    cross_connect, gate, flat = problem(case)
    assert gradcheck(cross_connect, flat)
    assert gradcheck(gate, flat)
    assert gradgradcheck(cross_connect, flat)
    assert gradgradcheck(gate, flat)


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_finite_differences_of_mix(case, by_channel, backend):
    xs, gates = make_paths(case), make_gates(case, by_channel)

    def mix(*flat):
        return tuple(functional.mix(list(flat[:-1]), flat[-1]))

    assert gradcheck(mix, (*xs, gates))
    assert gradgradcheck(mix, (*xs, gates))


def test_third_order(backend):
    cross_connect, _, flat = problem(SMALL[0])
    _, reference, _ = problem(SMALL[0])

    def third(function):
        value = sum(y.pow(2).sum() for y in function(*flat))
        for _ in range(3):
            grads = torch.autograd.grad(value, flat, create_graph=True, allow_unused=True)
            value = sum(g.pow(2).sum() for g in grads if g is not None)
        return value

    def definition(*flat):
        ys, gates = eager.cross_connect(list(flat[:2]), *flat[2:])
        return (*ys, gates)

    found, wanted = third(cross_connect), third(definition)
    assert (found - wanted).abs() <= 2**-53 * 1e6 * wanted.abs()


def test_one_tensor_as_two_paths(backend):
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    router = mpk.CrossConnect(3, 2, 2).double()

    def total(function):
        ys, gates = function([x, x], router.w1, router.b1, router.w2, router.b2)
        return ys[0].pow(2).sum() + gates.pow(3).sum()

    def first_and_second(value):
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        return first, *torch.autograd.grad(first.pow(2).sum(), x)

    found = first_and_second(total(functional.cross_connect))
    wanted = first_and_second(total(eager.cross_connect))
    for f, w in zip(found, wanted):
        assert (f - w).abs().max() <= 2**-53 * 1e6 * w.abs().max()


def test_torch_func(backend):
    router = mpk.CrossConnect(3, 2, 2).double()
    xs = [torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(2)]

    def loss(parameters, a, b):
        ys, gates = torch.func.functional_call(router, parameters, ([a, b], True))
        return ys[0].pow(2).sum() + gates.pow(3).sum()

    parameters = {name: p.detach() for name, p in router.named_parameters()}
    found = torch.func.grad(loss, argnums=(0, 1))(parameters, *xs)
    value, pull_back = torch.func.vjp(loss, parameters, *xs)
    pulled = pull_back(torch.ones((), dtype=torch.float64))
    mpk.unfuse(router)
    wanted = torch.func.grad(loss, argnums=(0, 1))(parameters, *xs)
    for name, w in wanted[0].items():
        for f in (found[0][name], pulled[0][name]):
            assert (f - w).abs().max() <= 2**-53 * 1e6 * w.abs().max(), name
    for f in (found[1], pulled[1]):
        assert (f - wanted[1]).abs().max() <= 2**-53 * 1e6 * wanted[1].abs().max()


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
    ys, gates, pooled = torch.ops.mpkernels.cross_connect(xs, *parameters)
    with torch.no_grad():
        for wanted in ([True, False] + [False] * 4, [False, True, True, False, False, True]):
            grad_xs, grad_parameters = torch.ops.mpkernels.cross_connect_backward(
                ys, None, xs, gates, pooled, *parameters, wanted
            )
            assert len(grad_xs) == sum(wanted[:2])
            shapes = [p.shape for p, w in zip(parameters, wanted[2:]) if w]
            assert [g.shape for g in grad_parameters] == shapes
        grad_xs, grad_gates = torch.ops.mpkernels.mix_backward(ys, xs, gates, [False, False, True])
        assert len(grad_xs) == 0 and grad_gates[0].shape == gates.shape


def test_nothing_is_saved_that_the_design_does_not_name(backend):
    xs = [torch.randn(2, 8, 16, 16, requires_grad=True) for _ in range(2)]
    router = mpk.CrossConnect(8, 2, 2)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        router(xs)
    maps = [t for t in saved if t.dim() == 4]
    assert {t.data_ptr() for t in maps} == {x.data_ptr() for x in xs}


def test_inputs_and_gradients_are_left_as_they_were(backend):
    xs = [torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2)]
    before = [x.detach().clone() for x in xs]
    ys = mpk.CrossConnect(3, 2, 2)(xs)
    grads = [torch.randn_like(y) for y in ys]
    copies = [g.clone() for g in grads]
    torch.autograd.backward(ys, grads)
    assert all(torch.equal(a, b) for a, b in zip([*xs, *grads], [*before, *copies]))
