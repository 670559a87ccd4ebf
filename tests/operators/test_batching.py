"""vmap of an operator by kernels: the way each call takes, and that its values are a loop's."""

import copy
from functools import partial

import pytest
import torch
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

import mpkernels as mpk
from mpkernels.ops import batching
from proof.problems.functions import FUNCTIONS, ROUTERS, problem
from proof.transforms import assert_same, loss

MEMBERS = 3


@pytest.fixture
def ways(monkeypatch):
    """The way of every call that vmap maps."""
    taken = []
    chosen = batching.way

    def record(*arguments):
        taken.append(chosen(*arguments))
        return taken[-1]

    monkeypatch.setattr(batching, "way", record)
    return taken


def members_of(t, dim):
    return torch.stack([t + 0.1 * e * torch.randn_like(t) for e in range(MEMBERS)], dim)


def looped(function, dims, flat):
    each = [[t] * MEMBERS if d is None else t.unbind(d) for t, d in zip(flat, dims)]
    return [torch.stack(ys) for ys in zip(*(function(*one) for one in zip(*each)))]


def gradients_of_paths(function):
    return lambda *flat: grad(partial(loss, function), (0, 1))(*flat)


@pytest.mark.parametrize("dims", [(0, 0), (1, 2), (2, None), (None, 0)])
@pytest.mark.parametrize("derive", [lambda f: f, gradients_of_paths], ids=["values", "gradients"])
@pytest.mark.parametrize("name", [*FUNCTIONS, *ROUTERS])
def test_members_of_the_paths_join_the_batch(name, derive, dims, ways, backend):
    function, definition, flat = problem(name)
    dims = (*dims, *[None] * (len(flat) - 2))
    flat = [t if d is None else members_of(t, min(d, t.dim())) for t, d in zip(flat, dims)]
    actual = vmap(derive(function), dims)(*flat)
    assert_same(actual, looped(derive(definition), dims, flat))
    assert set(ways) == {batching.FOLD}


@pytest.mark.parametrize("maps_differ", [False, True])
@pytest.mark.parametrize("name", ROUTERS)
def test_an_ensemble_calls_the_kernel_of_each_member(name, maps_differ, ways, backend):
    build, path = ROUTERS[name]
    routers = [build(mpk).double() for _ in range(MEMBERS)]
    for p in (p for router in routers for p in router.parameters()):
        p.data.add_(torch.randn_like(p))
    stacked, _ = stack_module_state(routers)
    xs = [members_of(path(), 0) if maps_differ else path() for _ in range(2)]
    base = copy.deepcopy(routers[0]).to("meta")
    ys = vmap(lambda p, xs: functional_call(base, p, (xs,)), (0, 0 if maps_differ else None))(
        stacked, xs
    )
    grads = torch.autograd.grad(loss(lambda: ys), list(stacked.values()))
    for e, router in enumerate(mpk.unfuse(copy.deepcopy(router)) for router in routers):
        own = router([x[e] for x in xs] if maps_differ else xs)
        assert_same([y[e] for y in ys], own)
        expected = torch.autograd.grad(loss(lambda own=own: own), list(router.parameters()))
        assert_same([g[e] for g in grads], expected)
    # A stitch's parameters are its gates, of which each sample has its own.
    ways = set(ways)
    assert batching.DEFINITION not in ways
    assert batching.LOOP in ways or name == "CrossStitch"


def test_many_small_members_take_the_definition(ways):
    router, count = mpk.CrossConnect(3, 2, 2).double(), batching.FEW_MEMBERS + 1
    xs = [torch.randn(4, 3, dtype=torch.float64) for _ in range(2)]
    stacked = {n: torch.stack([p] * count) for n, p in router.named_parameters()}
    ys = vmap(lambda p: functional_call(router, p, (xs,)))(stacked)
    assert ways == [batching.DEFINITION]
    assert_same([y[-1] for y in ys], router(xs))


def test_large_members_are_looped_over(ways):
    router, count = mpk.CrossConnect(1, 1, 1), batching.FEW_MEMBERS + 1
    x = torch.randn(1, 1, batching.LARGE_MEMBER)
    stacked = {n: torch.stack([p] * count) for n, p in router.named_parameters()}
    vmap(lambda p: functional_call(router, p, (x,)))(stacked)
    assert ways == [batching.LOOP]


@pytest.mark.parametrize("last", [False, True])
def test_members_have_the_bits_of_single_calls(last, ways, backend):
    if backend == "eager":
        pytest.skip("the definition's sums are PyTorch's: they may depend on the batch")
    format = torch.channels_last if last else torch.contiguous_format
    router = mpk.CrossConnect(16, 2, 3)
    xs = [torch.randn(5, 2, 16, 9, 9) for _ in range(2)]
    xs = [x.flatten(0, 1).contiguous(memory_format=format).view(x.shape) for x in xs]
    ys = vmap(lambda a, b: router([a, b]))(*xs)
    for e in range(5):
        assert all(torch.equal(y[e], own) for y, own in zip(ys, router([x[e] for x in xs])))
    assert ways == [batching.FOLD]
    if last:
        assert ys[0].flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def explained(transform, learns):
    """The backends that `explain` names from within a transform."""
    router, xs = mpk.CrossConnect(4, 2, 2).requires_grad_(learns), torch.randn(3, 2, 2, 4, 5, 5)
    named = []

    def routed(x):
        found = mpk.explain(router, list(x))
        named.extend(kernel.backend for kernel in found.kernels)
        named.extend(found.notes)
        return sum(y.sum() for y in router(list(x)))

    transform(routed)(xs)
    return set(named)


OF_EACH = "the eager definition serves: each member of vmap has gradients of its own"


@pytest.mark.parametrize(
    "transform, learns, note",
    [
        (vmap, True, None),
        (lambda f: lambda x: grad(f)(x[0]), True, None),
        (lambda f: grad(lambda x: vmap(f)(x).sum()), True, None),
        (lambda f: vmap(grad(f)), False, None),
        (lambda f: vmap(grad(f)), True, OF_EACH),
        (lambda f: lambda x: grad(lambda x: grad(f)(x).sum())(x[0]), False, "a derivative of a"),
        (lambda f: lambda x: jvp(f, (x[0],), (x[0],)), False, "forward mode"),
    ],
    ids=["vmap", "grad", "grad of vmap", "vmap of grad", "of parameters", "grad of grad", "jvp"],
)
def test_explain_tells_what_serves_a_transform(transform, learns, note):
    named = explained(transform, learns)
    if note is None:
        assert len(named) == 1 and not any("forward mode" in each for each in named)
    else:
        assert named >= {"eager"} and any(note in each for each in named)
