"""Calls that nobody intercepts take a short way to the kernel; all others take the dispatcher's."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch.nn.utils import parametrize, prune
from torch.utils._python_dispatch import TorchDispatchMode

import mpkernels as mpk
from mpkernels import eager, functional
from mpkernels.ops import native
from mpkernels.ops.operator import Operator
from proof.problems import calls
from proof.problems.cases import CASES
from proof.ways import python_alone
from proof.where import INTERPRETED

CHOSEN = [
    c for c in CASES if c.name.startswith(("float32", "bfloat16", "2_to_3", "no_bias", "wide"))
]
XS = [torch.randn(2, 4, 3, 5) for _ in range(2)]


def outputs_and_gradients(run, xs, rest):
    ys = run(xs, rest)
    leaves = calls.leaves(xs, rest)
    weights = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape) for y in ys]
    return ys, torch.autograd.grad(ys, leaves, weights)


@pytest.fixture
def direct_calls(monkeypatch):
    """The names of the operators that Python called the short way."""
    names, direct = [], Operator.direct

    def record(self, *arguments):
        names.append(self.name)
        return direct(self, *arguments)

    monkeypatch.setattr(Operator, "direct", record)
    with python_alone():
        yield names


@pytest.mark.parametrize("name", calls.NAMES)
@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_both_ways_give_the_same_bits(case, name, backend, direct_calls):
    xs, rest = calls.arguments(name, case)
    operator = calls.operator_of(name)
    ys, grads = outputs_and_gradients(partial(calls.call, name, functional), xs, rest)
    assert direct_calls == [operator, f"{operator}_backward"]
    expected_ys, expected = outputs_and_gradients(partial(calls.call_operator, name), xs, rest)
    # No hook needs to see this call, so the operator's gradient takes the short way.
    assert direct_calls[2:] == [f"{operator}_backward"]
    for a, e in zip((*ys, *grads), (*expected_ys, *expected)):
        assert torch.equal(a, e) and a.stride() == e.stride()


def test_without_gradients(backend, direct_calls):
    router = mpk.CrossConnect(4, 2, 2)
    with torch.no_grad():
        ys = router(XS)
        expected = torch.ops.mpkernels.cross_connect(XS, list(router.parameters()), 0)[:2]
    assert direct_calls == ["cross_connect"]
    assert all(torch.equal(y, w) and not y.requires_grad for y, w in zip(ys, expected))
    with torch.inference_mode():
        assert all(y.is_inference() for y in router(XS))


def test_bad_input_after_good_input(backend):
    router = mpk.CrossConnect(4, 2, 3)
    w1, b1, w2, b2 = (p.detach() for p in router.parameters())
    bad = [
        (([XS[0], XS[1].transpose(2, 3)], w1, b1, w2, b2), ValueError,
         "xs[1] must be [2, 4, 3, 5] as xs[0], got [2, 4, 5, 3]"),
        (([XS[0], XS[1].double()], w1, b1, w2, b2), TypeError,
         "xs[1] must be torch.float32 as xs[0], got torch.float64"),
        (([x.int() for x in XS], w1, b1, w2, b2), TypeError,
         "xs[0] must be float32, float64, bfloat16 or float16, got torch.int32"),
        ((XS, w1, b1.view(16, 2), w2, b2), ValueError,
         "b1 must be [m, K] = [2, 16], got [16, 2]"),
        ((XS, w1, b1, w2, b2.view(1, 6)), ValueError, "b2 must be [m, n] = [2, 3], got [1, 6]"),
        ((XS, w1, b1, w2.to("meta"), b2), ValueError, "w2 must be on cpu as xs, got meta"),
        ((XS, w1, b1.int(), w2, b2), TypeError,
         "b1 must be float32, float64, bfloat16 or float16, got torch.int32"),
        ((XS, w1, b1, w2, 1.0), TypeError, "b2 must be a tensor, got float"),
    ]  # fmt: skip
    for arguments, kind, message in bad:
        for leaf in (False, True):
            functional.cross_connect(XS, w1, b1, w2, b2)
            xs = [x.clone().requires_grad_(leaf and x.is_floating_point()) for x in arguments[0]]
            with pytest.raises(kind, match=re.escape(f"cross_connect: {message}")):
                functional.cross_connect(xs, *arguments[1:])


def test_a_switch_of_backend_takes_effect_at_once(monkeypatch):
    if native.why_no_cpu is not None:
        pytest.skip(native.why_no_cpu)
    router, calls, definition = mpk.CrossConnect(4, 2, 2), [], eager.cross_connect

    def count(*arguments, **named):
        calls.append(arguments)
        return definition(*arguments, **named)

    monkeypatch.setattr(eager, "cross_connect", count)
    router(XS)
    assert not calls
    with mpk.use_backend("eager"):
        router(XS)
        assert len(calls) == 1
        with pytest.raises(ValueError, match="b1 must be"):
            functional.cross_connect(XS, router.w1, router.b1[:, :1], router.w2, None)
    router(XS)
    assert len(calls) == 1


def test_an_error_that_is_not_about_arguments_stays(backend):
    def full(tensor):
        raise RuntimeError("the disk is full")

    router = mpk.CrossConnect(4, 2, 2)
    with (
        torch.autograd.graph.saved_tensors_hooks(full, full),
        pytest.raises(RuntimeError, match="the disk is full"),
    ):
        router(XS)


class SeesDispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        CALLS.append(str(function))
        return function(*args, **(kwargs or {}))


class SeesFunctions(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        CALLS.append(str(function))
        return function(*args, **(kwargs or {}))


CALLS = []


@pytest.mark.parametrize("mode", [SeesDispatch, SeesFunctions])
def test_modes_see_the_operator(mode, backend, direct_calls):
    router = mpk.CrossConnect(4, 2, 2)
    CALLS.clear()
    with mode():
        ys = router([x.clone().requires_grad_() for x in XS])
        assert not direct_calls
        # A mode of functions sees the call of autograd.grad, and is off within it.
        grads = torch.autograd.grad(sum(y.sum() for y in ys), list(router.parameters()))
    assert "mpkernels.cross_connect.default" in CALLS
    if mode is SeesDispatch:
        assert not direct_calls and "mpkernels.cross_connect_backward.default" in CALLS
    expected_ys = router([x.clone().requires_grad_() for x in XS])
    expected = torch.autograd.grad(sum(y.sum() for y in expected_ys), list(router.parameters()))
    assert direct_calls and all(map(torch.equal, [*ys, *grads], [*expected_ys, *expected]))


class Named(torch.Tensor):
    pass


def under_func(router):
    def loss(parameters):
        return sum(y.sum() for y in torch.func.functional_call(router, parameters, (XS,)))

    return torch.func.grad(loss)({n: p.detach() for n, p in router.named_parameters()})


def under_fake(router):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        ys = router([mode.from_tensor(x) for x in XS])
    with pytest.raises(ValueError, match=re.escape("xs must hold m = 2 paths as w1 [m, K, C]")):
        router.inputs = 1  # fake tensors are checked outside their mode too
        router([mode.from_tensor(XS[0])])
    return ys


def under_compile(router):
    return torch.compile(router, backend="eager", fullgraph=True)(XS)


class OfTwo(torch.nn.Module):
    def __init__(self, router):
        super().__init__()
        self.router = router

    def forward(self, a, b):
        return tuple(self.router([a, b]))


def under_trace(router):
    traced = torch.jit.trace(OfTwo(router), tuple(XS), check_trace=False)
    expected, _ = eager.cross_connect(XS, *router.parameters())
    assert all(map(torch.equal, traced(*XS), expected))


def under_export(router):
    program = torch.export.export(OfTwo(router), tuple(XS), strict=False)
    assert "mpkernels.cross_connect" in program.graph_module.code


def under_proxies(router):
    from torch.fx.experimental.proxy_tensor import make_fx

    assert "mpkernels.cross_connect" in make_fx(lambda a, b: router([a, b]))(*XS).code


def with_a_subclass(router):
    ys = router([x.as_subclass(Named) for x in XS])
    assert all(isinstance(y, Named) for y in ys)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "use",
    [
        under_func,
        under_fake,
        under_compile,
        under_trace,
        under_export,
        under_proxies,
        with_a_subclass,
    ],
)
def test_the_short_way_is_left(use, direct_calls):
    torch.use_deterministic_algorithms(False)
    use(mpk.CrossConnect(4, 2, 2))
    assert not direct_calls


def test_autocast_decides_the_dtype(backend, direct_calls):
    router = mpk.CrossConnect(4, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ys, gates = router(XS, return_gates=True)
    assert ys[0].dtype == torch.bfloat16 and gates.dtype == torch.float32


def test_values_that_outlive_a_transform(backend):
    """A tensor that leaks out of torch.func.grad still has its history."""
    values, router = [], mpk.CrossConnect(4, 2, 2)
    leaf = XS[0].clone().requires_grad_()

    def keep(x):
        values.append(x)
        return x.sum()

    torch.func.grad(keep)(leaf)
    ys = router([values[0], XS[1]])
    actual = torch.autograd.grad(sum(y.sum() * (j + 1) for j, y in enumerate(ys)), leaf)
    ys = router([leaf, XS[1]])
    expected = torch.autograd.grad(sum(y.sum() * (j + 1) for j, y in enumerate(ys)), leaf)
    assert torch.equal(actual[0], expected[0])


class Twice(torch.nn.Module):
    def forward(self, w):
        return 2 * w


@pytest.mark.parametrize("how", ["parametrized", "pruned", "plain"])
def test_parameters_that_were_replaced(how, backend):
    router = mpk.CrossConnect(4, 2, 2)
    if how == "parametrized":
        parametrize.register_parametrization(router, "w1", Twice())
    elif how == "pruned":
        prune.l1_unstructured(router, "w1", amount=0.5)
    else:
        w1 = router.w1.detach() * 3
        del router.w1
        router.w1 = w1
    expected, _ = functional.cross_connect(XS, router.w1, router.b1, router.w2, router.b2)
    assert all(map(torch.equal, router(XS), expected))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs one kernel at a time")
def test_many_threads_at_once(backend):
    router = mpk.CrossConnect(4, 2, 2)
    leaves = [[x.clone().requires_grad_() for x in XS] for _ in range(64)]

    def gradients(xs):
        with mpk.use_backend(backend):  # the fixture's context holds for its own thread only
            return torch.autograd.grad(sum(y.pow(2).sum() for y in router(xs)), xs)

    expected = gradients(leaves[0])
    with ThreadPoolExecutor(4) as pool:
        for actual in pool.map(gradients, leaves):
            assert all(map(torch.equal, actual, expected))
