"""Derivatives in every mode, and vmap over them, equal those of `mpkernels.eager`."""

import copy
from functools import partial

import pytest
import torch
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

import mpkernels as mpk
from mpkernels import eager, functional
from proof.problems import calls
from proof.problems.functions import FUNCTIONS, ROUTERS, gate_parameters, problem, values
from proof.transforms import (
    WAYS,
    assert_same,
    by_grad,
    by_jvp,
    by_vjp,
    flattened,
    forward_mode,
    grad_of_grad,
    loss,
    name_of,
    sum_of_squares,
    tangents,
    vmap_of_everything,
    vmap_of_grad,
    vmap_of_the_first,
)
from proof.where import INTERPRETED

# torch warns about constants in every graph that linearize records.
linearized = pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")


@linearized
@pytest.mark.parametrize("name", [*FUNCTIONS, *ROUTERS])
@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_derivatives_equal_those_of_the_definition(way, name, backend):
    function, definition, flat = problem(name)
    assert_same(way(function, flat), way(definition, flat))


def direct(name, *flat):
    """The outputs of the operator, called by torch.ops."""
    return tuple(calls.call_operator(name, list(flat[:2]), flat[2:]))


@linearized
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_operators_called_directly(way, name):
    _, definition, flat = problem(name)
    assert_same(way(partial(direct, name), flat), way(definition, flat))


LEARNING = {"none": lambda i: False, "some": lambda i: i % 2 == 0, "all": lambda i: True}


@pytest.mark.parametrize("learning", LEARNING)
@pytest.mark.parametrize("name", [*FUNCTIONS, *ROUTERS])
@pytest.mark.parametrize(
    "way", [forward_mode, by_jvp, vmap_of_the_first, by_vjp, grad_of_grad], ids=name_of
)
def test_whatever_requires_a_gradient(way, name, learning, backend):
    function, definition, flat = problem(name)
    flat = [t.requires_grad_(LEARNING[learning](i)) for i, t in enumerate(flat)]
    actual, expected = flattened(way(function, flat)), flattened(way(definition, flat))
    assert_same(actual, expected)
    assert [t.requires_grad for t in actual] == [t.requires_grad for t in expected]
    if way is forward_mode and name not in (*calls.GIVEN_GATES, "CrossStitch"):
        return  # torch cannot differentiate softmax's tangent: it raises on an in-place write
    leaves = [t for t in flat if t.requires_grad]
    pairs = [(f, w) for f, w in zip(actual, expected) if w.requires_grad]
    if pairs:
        grads = [
            torch.autograd.grad(sum_of_squares(side), leaves, allow_unused=True)
            for side in zip(*pairs)
        ]
        assert_same(*grads)


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("learns", [True, False])
def test_ensembles(name, learns, backend):
    build, path = ROUTERS[name]
    routers = [build(mpk).double().requires_grad_(learns) for _ in range(3)]
    for p in (p for router in routers for p in router.parameters()):
        p.data.add_(torch.randn_like(p))
    xs = [path(), path()]
    parameters, buffers = stack_module_state(routers)
    base = copy.deepcopy(routers[0]).to("meta")

    def call(parameters, buffers):
        return functional_call(base, (parameters, buffers), (xs,))

    actual = vmap(call)(parameters, buffers)
    expected = [mpk.unfuse(copy.deepcopy(router))(xs) for router in routers]
    assert_same(actual, [torch.stack(ys) for ys in zip(*expected)])


@pytest.mark.parametrize("name", ROUTERS)
def test_gradients_of_each_sample(name, backend):
    function, definition, flat = problem(name)
    a, b, *parameters = flat

    def gradients(function):
        def loss_of_sample(a, b, *parameters):
            return loss(function, a[None], b[None], *parameters)

        argnums = tuple(range(2, len(flat)))
        in_dims = (0, 0, *[None] * len(parameters))
        return vmap(grad(loss_of_sample, argnums), in_dims)(a, b, *parameters)

    assert_same(gradients(function), gradients(definition))


@pytest.mark.skipif(INTERPRETED, reason="finite differences are too slow in the interpreter")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_finite_differences_in_forward_mode_and_batches(name, backend):
    function, _, flat = problem(name)
    assert torch.autograd.gradcheck(
        function,
        tuple(t.requires_grad_() for t in flat),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.skipif(INTERPRETED, reason="finite differences are too slow in the interpreter")
@pytest.mark.parametrize("name", ["cross_connect", "combine"])
def test_finite_differences_of_gradients(name, backend):
    function, _, flat = problem(name)
    assert torch.autograd.gradgradcheck(
        function,
        tuple(t.requires_grad_() for t in flat),
        check_fwd_over_rev=True,
        check_batched_grad=True,
    )


@pytest.mark.parametrize(
    "way", [by_grad, by_vjp, by_jvp, vmap_of_everything, vmap_of_grad, grad_of_grad], ids=name_of
)
@pytest.mark.parametrize("name", ["cross_connect", "combine"])
def test_transforms_within_compiled_code(way, name):
    torch.use_deterministic_algorithms(False)
    function, definition, flat = problem(name)
    seeds = tangents(flat)  # compiled code would draw different ones

    def run(function, flat):
        if way is by_jvp:
            return jvp(function, tuple(flat), seeds)
        return way(function, flat)

    compiled = torch.compile(partial(run, function), backend="aot_eager")
    assert_same(compiled(flat), run(definition, flat))


@pytest.mark.parametrize("way", [by_grad, by_vjp, vmap_of_the_first], ids=name_of)
def test_transforms_of_compiled_code(way):
    torch.use_deterministic_algorithms(False)
    function, definition, flat = problem("cross_connect")
    compiled = torch.compile(function, backend="aot_eager")
    assert_same(way(compiled, flat), way(definition, flat))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4), (2, 3), (2, 3, 1, 1), (0, 3, 2, 2)])
def test_the_gradient_of_gate_is_a_map_to_write_to(shape, last, backend):
    x = values(*shape)
    if last and len(shape) > 2:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    w1, b1, w2, b2 = (t[:1] for t in gate_parameters())

    def gradient(functions):
        leaf = x.detach().requires_grad_()
        strides = []
        leaf.register_hook(lambda grad: (strides.append(grad.stride()), grad.mul_(0.5))[1])
        functions.gate(leaf if functions is functional else [leaf], w1, b1, w2, b2)[
            ..., 0
        ].sum().backward()
        return leaf.grad, strides

    (actual, strides), (expected, _) = gradient(functional), gradient(eager)
    assert_same(actual, expected)
    if x.numel() > 0 and 1 not in shape:
        assert strides == [x.stride()]
