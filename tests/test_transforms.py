"""Derivatives in every mode, and maps over them: each equals that of `mpkernels.eager`."""

import copy
from functools import partial

import pytest
import torch
import torch.autograd.forward_ad as fw
from conftest import INTERPRETED
from torch.func import (
    functional_call,
    functionalize,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    stack_module_state,
    vjp,
    vmap,
)

import mpkernels as mpk
from mpkernels import eager, functional

F64 = torch.float64
B, C, M, N, K = 2, 3, 2, 2, 3


def values(*shape):
    return torch.randn(shape, dtype=F64)


def maps(channels=C, last=False):
    x = values(B, channels, 2, 2)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def gate_parameters():
    return [values(M, K, C), values(M, K), values(M, N, K), values(M, N)]


def of_gate(functions, a, b, *parameters):
    return (functions.gate([a, b], *parameters),)


def of_cross_connect(functions, a, b, *parameters):
    ys, gates = functions.cross_connect([a, b], *parameters)
    return (*ys, gates)


def of_mix(functions, a, b, gates):
    return tuple(functions.mix([a, b], gates))


def of_combine(functions, a, b, gates, bias, scale, shift):
    return tuple(functions.combine([a, b], gates, bias, True, scale, shift))


def of_cross_predict(functions, a, b, weight, bias, w1, b1, w2, b2):
    ys, gates = functions.cross_predict([a, b], weight, bias, w1, b1, w2, b2)
    return (*ys, gates)


# Name -> the function of all its tensors, and these.
FUNCTIONS = {
    "gate": (of_gate, lambda: [maps(), maps(last=True), *gate_parameters()]),
    "gate_of_vectors": (of_gate, lambda: [values(B, C), values(B, C), *gate_parameters()]),
    "cross_connect": (of_cross_connect, lambda: [maps(), maps(last=True), *gate_parameters()]),
    "mix": (of_mix, lambda: [maps(last=True), maps(), values(B, M, N)]),
    "mix_by_channel": (of_mix, lambda: [values(B, C), values(B, C), values(B, M, N, C)]),
    "combine": (
        of_combine,
        lambda: [maps(N * C), maps(N * C), values(B, M, N), values(M, N * C), values(N, C),
                 values(N, C)],
    ),
    "cross_predict": (
        of_cross_predict,
        lambda: [values(B, C), values(B, C), values(M, N * 2, C), values(M, N * 2),
                 *gate_parameters()],
    ),
}  # fmt: skip

ROUTERS = {
    "CrossConnect": (lambda package: package.CrossConnect(C, M, N, K), maps),
    "CrossPredictConv2d": (
        lambda package: package.CrossPredictConv2d(C, 2, 2, M, N, 1, 1, K),
        maps,
    ),
    "CrossPredictLinear": (
        lambda package: package.CrossPredictLinear(C, 2, M, N, K),
        lambda: values(B, C),
    ),
    "CrossStitch": (lambda package: package.CrossStitch(N), maps),
}


def of_router(router, names, a, b, *parameters):
    """All outputs of a router as a function of its paths and parameters."""
    ys, gates = functional_call(router, dict(zip(names, parameters)), ([a, b], True))
    return (*ys, gates)


def problem(name):
    """The function by the fused package, the same by the eager one, and its tensors."""
    if name in FUNCTIONS:
        function, make = FUNCTIONS[name]
        return partial(function, functional), partial(function, eager), make()
    build, path = ROUTERS[name]
    fused = build(mpk).double()
    definition = mpk.unfuse(copy.deepcopy(fused))
    state = dict(fused.named_parameters())
    flat = [path(), path(), *(p.detach().clone() for p in state.values())]
    return partial(of_router, fused, [*state]), partial(of_router, definition, [*state]), flat


def loss(function, *flat):
    return sum((j + 1) * y.pow(2).sum() for j, y in enumerate(function(*flat)))


def every(flat):
    return tuple(range(len(flat)))


def tangents(flat):
    torch.manual_seed(1)
    return tuple(torch.randn_like(t) for t in flat)


def forward_mode(function, flat):
    with fw.dual_level():
        dual = [fw.make_dual(t, d) for t, d in zip(flat, tangents(flat))]
        return [t for y in function(*dual) for t in fw.unpack_dual(y)]


def forward_mode_of_one(function, flat):
    """Only the first tensor has a tangent."""
    with fw.dual_level():
        dual = [fw.make_dual(flat[0], tangents(flat)[0]), *flat[1:]]
        return [t for y in function(*dual) for t in fw.unpack_dual(y) if t is not None]


def forward_over_backward(function, flat):
    with fw.dual_level():
        leaves = [t.detach().clone().requires_grad_() for t in flat]
        dual = [fw.make_dual(t, d) for t, d in zip(leaves, tangents(flat))]
        grads = torch.autograd.grad(loss(function, *dual), leaves)
        return [t for g in grads for t in fw.unpack_dual(g)]


def tangents_in_backward(function, flat):
    """The forward knows of no tangent; the gradient that arrives has one."""
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    ys = function(*leaves)
    with fw.dual_level():
        dual = [fw.make_dual(y.detach().clone(), d) for y, d in zip(ys, tangents(ys))]
        grads = torch.autograd.grad(ys, leaves, dual)
        return [t for g in grads for t in fw.unpack_dual(g)]


def forward_over_double_backward(function, flat):
    with fw.dual_level():
        leaves = [t.detach().clone().requires_grad_() for t in flat]
        dual = [fw.make_dual(t, d) for t, d in zip(leaves, tangents(flat))]
        firsts = torch.autograd.grad(loss(function, *dual), leaves, create_graph=True)
        grads = torch.autograd.grad(sum(g.pow(2).sum() for g in firsts), leaves)
        return [t for g in grads for t in fw.unpack_dual(g)]


def by_jvp(function, flat):
    return jvp(function, tuple(flat), tangents(flat))


def by_linearize(function, flat):
    ys, push = linearize(function, *flat)
    return [ys, push(*tangents(flat))]


def by_vjp(function, flat):
    ys, pull = vjp(function, *flat)
    return [ys, pull(tuple(ys))]


def by_grad(function, flat):
    return grad(partial(loss, function), every(flat))(*flat)


def sum_of_squares(tensors):
    return sum(t.pow(2).sum() for t in tensors)


def grad_of_grad(function, flat):
    def inner(*flat):
        return sum_of_squares(grad(partial(loss, function), every(flat))(*flat))

    return grad(inner, every(flat))(*flat)


def third_grad(function, flat):
    def first(x):
        return loss(function, x, *flat[1:])

    def second(x):
        return grad(first)(x).pow(2).sum()

    return grad(lambda x: grad(second)(x).pow(2).sum())(flat[0])


def grad_over_jvp(function, flat):
    def inner(*flat):
        return sum_of_squares(jvp(function, flat, tangents(flat))[1])

    return grad(inner, every(flat))(*flat)


def jvp_over_grad(function, flat):
    return jvp(grad(partial(loss, function), every(flat)), tuple(flat), tangents(flat))


def jvp_over_jvp(function, flat):
    def inner(*flat):
        return jvp(function, flat, tangents(flat))

    return jvp(inner, tuple(flat), tangents(flat))


def many(flat, which):
    return [torch.stack([t, 2 * t, -t]) if i in which else t for i, t in enumerate(flat)]


def vmap_of_everything(function, flat):
    return vmap(function)(*many(flat, every(flat)))


def vmap_of_the_first(function, flat):
    return vmap(function, (0, *[None] * (len(flat) - 1)))(*many(flat, {0}))


def vmap_of_the_last(function, flat):
    given = many(flat, {len(flat) - 1})
    moved = [*given[:-1], given[-1].movedim(0, -1)]
    return vmap(function, (*[None] * (len(flat) - 1), -1))(*moved)


def vmap_of_vmap(function, flat):
    given = many(many(flat, every(flat)), every(flat))
    return vmap(vmap(function))(*given)


def vmap_of_grad(function, flat):
    return vmap(grad(partial(loss, function), every(flat)))(*many(flat, every(flat)))


def grad_of_vmap(function, flat):
    def inner(*flat):
        return loss(vmap(function), *flat)

    return grad(inner, every(flat))(*many(flat, every(flat)))


def vmap_of_jvp(function, flat):
    def inner(*flat):
        return jvp(function, flat, tangents(flat))

    return vmap(inner, randomness="same")(*many(flat, every(flat)))


def plain_backward_through_vmap(function, flat):
    leaves = [t.requires_grad_() for t in many(flat, every(flat))]
    return torch.autograd.grad(loss(vmap(function), *leaves), leaves)


def jacobian_by_reverse(function, flat):
    return jacrev(function, every(flat))(*flat)


def jacobian_by_forward(function, flat):
    return jacfwd(function, every(flat))(*flat)


def by_hessian(function, flat):
    return hessian(partial(loss, function), (0, len(flat) - 1))(*flat)


def reverse_over_reverse(function, flat):
    return jacrev(jacrev(partial(loss, function)))(*flat)


def batched_gradients(function, flat):
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    ys = function(*leaves)
    given = [torch.stack([y, 2 * y + 1, y * 0]).detach() for y in ys]
    return torch.autograd.grad(ys, leaves, given, is_grads_batched=True)


def batched_second_gradients(function, flat):
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    firsts = torch.autograd.grad(loss(function, *leaves), leaves, create_graph=True)
    given = [torch.stack([g, 2 * g + 1]).detach() for g in firsts]
    return torch.autograd.grad(firsts, leaves, given, is_grads_batched=True)


def gradients_of_batched_gradients(function, flat):
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    ys = function(*leaves)
    given = [torch.stack([y, 2 * y + 1]).detach() for y in ys]
    firsts = torch.autograd.grad(ys, leaves, given, is_grads_batched=True, create_graph=True)
    return torch.autograd.grad(sum_of_squares(firsts), leaves, allow_unused=True)


def old_jacobian(function, flat, **options):
    return torch.autograd.functional.jacobian(function, tuple(flat), vectorize=True, **options)


def old_hessian(function, flat):
    return torch.autograd.functional.hessian(
        partial(loss, function), tuple(flat), vectorize=True, outer_jacobian_strategy="forward-mode"
    )


def plain_over_func(function, flat):
    """torch.func.grad within plain autograd."""
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    firsts = grad(partial(loss, function), every(flat))(*leaves)
    return torch.autograd.grad(sum_of_squares(firsts), leaves)


def func_of_dual(function, flat):
    """torch.func.grad within a plain dual level."""
    with fw.dual_level():
        dual = [fw.make_dual(t, d) for t, d in zip(flat, tangents(flat))]
        grads = grad(partial(loss, function), every(flat))(*dual)
        return [t for g in grads for t in fw.unpack_dual(g)]


def by_functionalize(function, flat):
    return functionalize(function)(*flat)


WAYS = [
    forward_mode, forward_mode_of_one, forward_over_backward, tangents_in_backward,
    forward_over_double_backward, by_jvp, by_linearize, by_vjp, by_grad, grad_of_grad, third_grad,
    grad_over_jvp, jvp_over_grad, jvp_over_jvp, vmap_of_everything, vmap_of_the_first,
    vmap_of_the_last, vmap_of_vmap, vmap_of_grad, grad_of_vmap, vmap_of_jvp,
    plain_backward_through_vmap, jacobian_by_reverse, jacobian_by_forward, by_hessian,
    reverse_over_reverse, batched_gradients, batched_second_gradients,
    gradients_of_batched_gradients, old_jacobian, partial(old_jacobian, strategy="forward-mode"),
    old_hessian, plain_over_func, func_of_dual, by_functionalize,
]  # fmt: skip


def flattened(found):
    leaves, _ = torch.utils._pytree.tree_flatten(found)
    return leaves


def assert_same(found, wanted):
    found, wanted = flattened(found), flattened(wanted)
    assert len(found) == len(wanted)
    for f, w in zip(found, wanted):
        if f is None or w is None:  # a gradient that is zero may be none
            assert all(t is None or not t.any() for t in (f, w))
            continue
        assert f.shape == w.shape
        error, size = (f - w).detach().abs(), w.detach().abs()
        assert (error <= 2**-53 * 1e6 * size.amax().clamp(min=1)).all() if w.numel() else True


def name_of(way):
    return way.__name__ if hasattr(way, "__name__") else f"{way.func.__name__}_forward"


# torch warns of constants in what linearize records, of ours as of any other.
linearized = pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")


@linearized
@pytest.mark.parametrize("name", [*FUNCTIONS, *ROUTERS])
@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_derivatives_equal_those_of_the_definition(way, name, backend):
    function, definition, flat = problem(name)
    assert_same(way(function, flat), way(definition, flat))


def direct(name, *flat):
    """The operator's outputs by torch.ops."""
    rest = flat[2:]
    if name == "combine":
        rest = (*rest, True)
    if name == "cross_predict":
        rest = (*rest, None, None, True)
    operator = name.removesuffix("_by_channel").removesuffix("_of_vectors")
    found = flattened(getattr(torch.ops.mpkernels, operator)(list(flat[:2]), *rest))
    # Behind what the function returns comes what the backward needs.
    kept = {"gate": 1, "cross_connect": N + 1, "cross_predict": N + 1}.get(operator, N)
    return tuple(found[:kept])


@linearized
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_operators_called_directly(way, name, backend):
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
    found, wanted = flattened(way(function, flat)), flattened(way(definition, flat))
    assert_same(found, wanted)
    assert [t.requires_grad for t in found] == [t.requires_grad for t in wanted]
    if way is forward_mode and name not in ("mix", "mix_by_channel", "combine", "CrossStitch"):
        return  # the tangent of torch's softmax has no gradient: an error about a write in place
    leaves = [t for t in flat if t.requires_grad]
    pairs = [(f, w) for f, w in zip(found, wanted) if w.requires_grad]
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

    found = vmap(call)(parameters, buffers)
    wanted = [mpk.unfuse(copy.deepcopy(router))(xs) for router in routers]
    assert_same(found, [torch.stack(ys) for ys in zip(*wanted)])


@pytest.mark.parametrize("name", ROUTERS)
def test_gradients_of_each_sample(name, backend):
    function, definition, flat = problem(name)
    a, b, *parameters = flat

    def gradients(function):
        def of_one(a, b, *parameters):
            return loss(function, a[None], b[None], *parameters)

        by = tuple(range(2, len(flat)))
        in_dims = (0, 0, *[None] * len(parameters))
        return vmap(grad(of_one, by), in_dims)(a, b, *parameters)

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
    seeds = tangents(flat)  # drawn outside: compiled code draws others

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
        seen = []
        leaf.register_hook(lambda grad: (seen.append(grad.stride()), grad.mul_(0.5))[1])
        functions.gate(leaf if functions is functional else [leaf], w1, b1, w2, b2)[
            ..., 0
        ].sum().backward()
        return leaf.grad, seen

    (found, strides), (wanted, _) = gradient(functional), gradient(eager)
    assert_same(found, wanted)
    if x.numel() > 0 and 1 not in shape:
        assert strides == [x.stride()]
