"""Nodes in C++ give what Python's give, and leave to Python whatever something may have to see."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import mpkernels as mpk
from mpkernels import functional
from mpkernels.ops import nodes
from mpkernels.ops.operator import OPERATORS, Routed
from proof.problems import calls
from proof.problems.cases import CASES, Case
from proof.ways import python_alone

pytestmark = pytest.mark.skipif(nodes.why_none is not None, reason=f"no nodes: {nodes.why_none}")
ROUTED = [name for name in calls.NAMES if isinstance(OPERATORS[calls.operator_of(name)], Routed)]
FEW = [
    case
    for case in CASES
    if case.name in ("2_to_3", "1_to_3", "8_to_8", "bfloat16_channels_last", "float64_nchw")
    or not case.bias
    or case.frozen
    or case.batch == 0
]


def both(function):
    """What the function returns with nodes in C++ and without."""
    with_nodes = function()
    with python_alone():
        return with_nodes, function()


def has_a_node_in_cpp(y):
    return "CppNode" in y.grad_fn.name()


def problem(name, case):
    torch.manual_seed(0)
    return calls.arguments(name, case)


def some(ts, seed):
    """About half of them, never none."""
    kept = [t for t in ts if torch.rand((), generator=seed) < 0.5]
    return kept or ts[:1]


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        assert (a is None) == (e is None)
        if a is not None:
            assert a.dtype == e.dtype and a.stride() == e.stride()
            assert torch.equal(a, e) or (a.isnan() == e.isnan()).all()


@pytest.mark.parametrize("name", ROUTED)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_outputs_and_gradients_are_the_same(name, case):
    paths, rest = problem(name, case)
    leaves = calls.leaves(paths, rest)
    for seed in range(4):

        def step(seed=seed):
            choice = torch.Generator().manual_seed(seed)
            outputs = calls.call(name, functional, paths, rest)
            recorded = [y for y in outputs if y.requires_grad]
            if not recorded:
                return outputs
            assert has_a_node_in_cpp(recorded[0]) == (OPERATORS["mix"]._in_cpp is not nodes.never)
            derived, wanted = some(recorded, choice), some(leaves, choice)
            grads = [torch.ones_like(y) for y in derived]
            return [*outputs, *torch.autograd.grad(derived, wanted, grads, allow_unused=True)]

        assert_same(*both(step))


@pytest.mark.parametrize("name", ROUTED)
def test_second_derivatives_are_the_same(name):
    paths, rest = problem(name, Case("double", "", dtype=torch.float64, spatial=(3, 2)))
    leaves = calls.leaves(paths, rest)

    def step():
        outputs = calls.call(name, functional, paths, rest)
        value = sum(y.square().sum() for y in outputs)
        firsts = torch.autograd.grad(value, leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in firsts), leaves)

    assert_same(*both(step))


def router_and_paths():
    torch.manual_seed(0)
    return mpk.CrossConnect(4, 2, 3), [torch.randn(2, 4, 3, requires_grad=True) for _ in range(2)]


def test_saved_tensors_pass_through_hooks():
    router, xs = router_and_paths()
    packed = []

    def step():
        with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
            ys = router(xs)
        return torch.autograd.grad(sum(y.sin().sum() for y in ys), [*xs, *router.parameters()])

    assert_same(*both(step))
    assert (
        len(packed) % 2 == 0 and len(packed) >= 2 * 8
    )  # gates, pooled, two paths, the gate's four


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant):
    router, xs = router_and_paths()

    def step():
        ys = checkpoint(lambda *xs: tuple(router(list(xs))), *xs, use_reentrant=reentrant)
        return torch.autograd.grad(sum(y.sin().sum() for y in ys), xs) if not reentrant else ys

    assert_same(*both(step))


def test_what_autograd_refuses():
    router, xs = router_and_paths()
    value = sum(y.sum() for y in router(xs))
    value.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()
    maps = [x * 1 for x in xs]
    ys = router(maps)
    maps[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ys[0].sum().backward()


def test_bad_arguments_are_refused_as_ever():
    xs = [torch.randn(2, 3, requires_grad=True)]
    with pytest.raises(ValueError, match=r"gates must be \[B, m, n\]"):
        functional.mix(xs, torch.rand(2, 2, 1))
    with pytest.raises(TypeError, match=r"xs\[0\]"):
        functional.mix([None], torch.rand(2, 1, 1))


def test_nothing_keeps_a_graph_alive():
    router, xs = router_and_paths()
    ys = router(xs)
    path = weakref.ref(xs[0])  # lives as long as anything in C++ holds its tensor
    del xs
    gc.collect()
    assert path() is not None
    del ys
    assert path() is None


def test_derivatives_of_a_derivative_that_only_forward_mode_takes():
    router, xs = router_and_paths()
    direction = torch.randn_like(xs[0])

    def step():
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(torch.ones(()), torch.ones(()))
            ys = router(xs)  # recorded while the level is open
            (grad,) = torch.autograd.grad((ys[0] * direction).sum() * dual, xs[:1])
            return [*forward_ad.unpack_dual(grad)]

    assert_same(*both(step))

    ys = router(xs)  # recorded before it is
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones(()), torch.ones(()))
        (grad,) = torch.autograd.grad((ys[0] * direction).sum() * dual, xs[:1])
        tangent = forward_ad.unpack_dual(grad).tangent
        torch.testing.assert_close(tangent, forward_ad.unpack_dual(grad).primal)


def test_many_gradients_at_once():
    router, xs = router_and_paths()

    def step():
        ys = router(xs)
        grads = torch.randn(5, *ys[0].shape, generator=torch.Generator().manual_seed(1))
        return torch.autograd.grad(ys[0], xs, grads, is_grads_batched=True)

    for a, e in zip(*both(step)):
        torch.testing.assert_close(a, e)


class Functions(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), named=None):
        return function(*arguments, **(named or {}))


class Dispatched(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        return function(*arguments, **(named or {}))


class Subclass(torch.Tensor):
    pass


X, G = torch.randn(2, 3), torch.rand(2, 1, 2)


def in_cpp(x=X, gates=G):
    return OPERATORS["mix"]._in_cpp([x], gates) is not None


def within(context):
    with context:
        return in_cpp()


def transformed(transform):
    seen = []

    def function(x):
        seen.append(in_cpp(x) or in_cpp())
        return x.sum()

    transform(function)
    return any(seen) or not seen


def jvp():
    with forward_ad.dual_level():
        return in_cpp()


ABOVE = {
    "a mode of functions": lambda: within(Functions()),
    "a mode of the dispatcher": lambda: within(Dispatched()),
    "autocast": lambda: within(torch.autocast("cpu", torch.bfloat16)),
    "a forced backend": lambda: within(mpk.use_backend("eager")),
    "forward mode": jvp,
    "grad": lambda: transformed(lambda f: torch.func.grad(f)(X)),
    "vmap": lambda: transformed(lambda f: torch.func.vmap(f, randomness="same")(X[None])),
    "jvp": lambda: transformed(lambda f: torch.func.jvp(f, (X,), (X,))),
    "functionalize": lambda: transformed(lambda f: torch.func.functionalize(f)(X)),
    "TorchScript's tracer": lambda: transformed(lambda f: torch.jit.trace(f, X, check_trace=False)),
    "a subclass": lambda: in_cpp(X.as_subclass(Subclass)),
    "a meta tensor": lambda: in_cpp(X.to("meta"), G.to("meta")),
    "a None": lambda: in_cpp(None),
    "a number": lambda: in_cpp(3.0),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("what", ABOVE)
def test_python_sees_calls_that_something_else_has_to_see(what):
    assert in_cpp()
    assert not ABOVE[what]()
    assert in_cpp()


def test_inference_mode_hides_nothing():
    with torch.inference_mode():
        assert in_cpp()
    with torch.no_grad():
        assert in_cpp()


@pytest.mark.parametrize(
    "arguments", [(), ([X],), ([X], G, G), (X, G), ([X], [G]), ((x for x in [X]), G)]
)
def test_arguments_that_do_not_fit_are_left_to_python(arguments):
    assert OPERATORS["mix"]._in_cpp(*arguments) is None


def test_more_tensors_than_the_mask_has_bits():
    xs = [torch.ones(1, 1, requires_grad=True) for _ in range(70)]
    ys = functional.mix(xs, torch.ones(1, 70, 1))
    assert not has_a_node_in_cpp(ys[0])
    assert all(g.item() == 1 for g in torch.autograd.grad(ys[0], xs))


@pytest.mark.filterwarnings("ignore")  # of the tracer: non-leaf tensors, cached functions
@pytest.mark.parametrize("way", [nullcontext, python_alone])
@pytest.mark.parametrize(
    "router",
    [lambda: mpk.CrossConnect(4, 2, 3), lambda: mpk.CrossPredictConv2d(4, 3, 1, 2, 2)],
    ids=["cross_connect", "cross_predict"],
)
def test_compiled_autograd_traces_them(router, way):
    torch.manual_seed(0)
    router, xs = router(), [torch.randn(2, 4, 3, 3, requires_grad=True) for _ in range(2)]
    leaves = [*xs, *router.parameters()]

    def step():
        for leaf in leaves:
            leaf.grad = None
        sum(y.sin().sum() for y in router(xs)).backward()
        return [leaf.grad.clone() for leaf in leaves]

    expected = step()
    torch._dynamo.reset()
    with way(), torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        actual = step()
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e)
