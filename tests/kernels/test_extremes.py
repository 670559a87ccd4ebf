"""Extreme values, and maps of several layouts in one call, in Triton's kernels.

The kernels run in the interpreter or on a GPU.
"""

import math
from dataclasses import replace

import pytest
import torch

from proof import checks, where
from proof.closeness import ROUNDOFF, exact
from proof.problems import calls, cases
from proof.problems.cases import Case, make_parameters
from proof.where import INTERPRETED

if not INTERPRETED and where.DEVICE == "cpu":
    pytest.skip("needs TRITON_INTERPRET=1, or a GPU", allow_module_level=True)

from mpkernels import eager, functional, use_backend
from mpkernels.eager.functional import KINDS
from mpkernels.ops.layout import is_channels_last
from mpkernels.triton import combine, cross_connect, launch, launch_arguments, mix, mix_backward
from mpkernels.triton.tuned import launch_for

# The interpreter computes with NumPy, which warns about NaN.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

INF, NAN = float("inf"), float("nan")
LAYOUTS = ["nchw", "channels_last"]


@pytest.fixture(params=["resident", "streamed", "split"])
def method(request, monkeypatch):
    """Forces a method of cross_connect; the other operators have only one."""
    if request.param != "resident":
        monkeypatch.setattr(launch, "RESIDENT_ELEMENTS", 0)
        monkeypatch.setattr(launch, "RESIDENT_UNALIGNED", 0)
        monkeypatch.setattr(launch, "CHUNK_ELEMENTS", 64)
        monkeypatch.setattr(launch, "BUSY_SHARE", 0 if request.param == "streamed" else 1e9)
    launch_for.cache_clear()
    with use_backend("triton"):
        yield
    launch_for.cache_clear()


@pytest.fixture
def triton():
    with use_backend("triton"):
        yield


def tensor(values):
    return torch.tensor(values, device=where.DEVICE)


def assert_alike(name, actual, expected):
    """NaN and infinities are where expected; all else is within 1,024 roundings of the largest."""
    actual, expected = exact(actual), exact(expected)
    assert torch.equal(actual.isnan(), expected.isnan()), (name, actual, expected)
    assert torch.equal(actual.isinf(), expected.isinf()), (name, actual, expected)
    assert torch.equal(actual[actual.isinf()], expected[expected.isinf()]), (name, actual, expected)
    finite = expected.isfinite()
    if finite.any():
        error, largest = (actual - expected)[finite].abs().max(), expected[finite].abs().max()
        assert error <= 1024 * ROUNDOFF[torch.float32] * largest, (name, actual, expected)


def step(functions, name, paths, rest, grads, wide=False):
    """Outputs and gradients, in float64 if wide."""

    def leaf(t):
        if t is None:
            return None
        return (exact(t) if wide else t.detach().clone()).requires_grad_(t.is_floating_point())

    paths, rest = [leaf(x) for x in paths], [leaf(t) for t in rest]
    outputs = calls.call(name, functions, paths, rest)
    pairs = [(y, g.to(y)) for y, g in zip(outputs, grads) if g is not None]
    ys, gs = zip(*pairs)
    leaves = [t for t in (*paths, *rest) if t is not None]
    return [*outputs, *torch.autograd.grad(ys, leaves, gs, allow_unused=True)]


def compare(name, paths, rest, grads, skipped=()):
    """Compares with eager in float64, except a skipped bias: its gradient is third from the end."""
    actual = step(functional, name, paths, rest, grads)
    expected = step(eager, name, paths, rest, grads, wide=True)
    for index, (a, e) in enumerate(zip(actual, expected)):
        assert (a is None) == (e is None), index
        if a is not None and not (skipped and index == len(actual) - 3):
            assert_alike(f"{name} {index}", a, e)


LOGITS = [
    [1e4, -1e4, 0.0], [1e4, 1e4 - 1, 1e4 - 2], [-1e4, -1e4 - 1, -1e4 + 1],
    [1e30, 1e30, -1e30], [-1e30, 1e30, 0.0], [-1e30, -1e30, -1e30],
    [-INF, 0.0, 1.0], [-INF, -INF, -INF], [INF, 0.0, 0.0], [INF, INF, -INF], [NAN, 0.0, 1.0],
]  # fmt: skip


@pytest.mark.parametrize("logits", LOGITS, ids=str)
@pytest.mark.parametrize("name", ["cross_connect", "gate"])
def test_logits_of_any_size(name, logits, method):
    """The biases are the logits. A softmax that does not subtract its maximum is NaN at 1e4."""
    if name == "gate" and launch.BUSY_SHARE != 0.75:
        pytest.skip("gate has one method")
    case = Case("", "", batch=2, channels=6, spatial=(3, 5), inputs=2, outputs=3, hidden=4)
    paths, (w1, b1, w2, b2) = calls.arguments(name, case)
    with torch.no_grad():
        w2 = w2 * 0
        b2 = torch.stack([tensor(logits), tensor([0.5, 0.0, -0.5])])
    outputs = calls.call(name, eager, paths, [w1, b1, w2, b2])
    compare(name, paths, [w1, b1, w2, b2], [torch.randn_like(y) for y in outputs])


def _large(case):
    """Parameters whose logits are around 1e4."""
    parameters = make_parameters(case)
    for name in ("w2", "b2"):
        parameters[name] = (parameters[name].detach() * 1e4).requires_grad_()
    return parameters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_logits_of_hidden_units(layout, kind, method, monkeypatch):
    """Gates and every gradient are within the derived bounds."""
    monkeypatch.setattr(checks, "make_parameters", _large)
    case = Case("", "", batch=2, channels=9, layout=layout)
    checks.check_cross_connect(case, kind)
    checks.check_gate(case, kind)


@pytest.mark.parametrize("large", [1e4, 1e30, INF, NAN])
@pytest.mark.parametrize("name", calls.GIVEN_GATES)
def test_given_gates_of_any_size(name, large, triton):
    """One gate of one sample is large; an output without a gradient does not add inf times 0."""
    case = Case("", "", batch=2, channels=4, spatial=(3, 3), inputs=2, outputs=2)
    paths, (gates, *rest) = calls.arguments(name, case)
    # A bias is added at all positions. Its gradient in the kernel is the gate times the sum over
    # them, which is infinite; eager sums products of both signs, which is NaN.
    skipped = ("bias",) if name == "combine" and large == INF else ()
    for sign in (1, -1):
        with torch.no_grad():
            gates[1, 0, 1] = sign * large
        grads = [torch.randn_like(y) for y in calls.call(name, eager, paths, [gates, *rest])]
        compare(name, paths, [gates, *rest], grads, skipped)
        compare(name, paths, [gates, *rest], [grads[0], None])


def test_combine_adds_the_bias_before_the_gate(triton):
    """An infinite gate times U + b is infinite, where the sum of its products would be NaN."""
    us, gates, bias = [tensor([[2.0, 2.0]])], tensor([[[INF]]]), tensor([[-1.0, 1.0]])
    (y,) = functional.combine(us, gates, bias, relu=False)
    assert torch.equal(y, tensor([[INF, INF]]))


@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bias_that_cancels_predictions(layout, folded, triton):
    """U is near -b and gates are near 1e6: U + b is exact, but g U + g b would not be."""
    case = Case("", "", batch=2, channels=4, spatial=(3, 3), layout=layout, outputs=2)
    us, (gates, bias, scale, shift) = calls.arguments("combine", case)
    with torch.no_grad():
        for u, b in zip(us, bias):
            b.fill_(0.75)
            u.mul_(2.0**-16).sub_(0.75)
        gates.add_(2.0).mul_(1e6)
    rest = [gates, bias, scale if folded else None, None]
    grads = [torch.randn_like(y) for y in calls.call("combine", eager, us, rest)]
    compare("combine", us, rest, grads)


def _gradient(kind, y):
    """A gradient of y with the layout that `kind` names."""
    value = torch.randn_like(y)
    if kind == "nchw":
        return value.contiguous()
    if kind == "channels_last":
        return value.movedim(1, -1).contiguous().movedim(-1, 1)
    if kind == "sliced":
        return torch.cat([value, value], 1).contiguous()[:, : y.shape[1]]
    if kind == "batch":
        return torch.cat([value, value]).contiguous()[::2][: len(y)]
    if kind == "rows":
        return _apart(y, 3).copy_(value)
    if kind == "expanded":
        return value[:, :1, :1, :1].expand(y.shape)
    if kind == "zero":
        return torch._efficientzerotensor(y.shape, dtype=y.dtype, device=y.device)
    if kind == "negative":
        return torch._neg_view(value)
    return None


KINDS = ["nchw", "channels_last", "sliced", "batch", "rows", "expanded", "zero", "negative", "none"]


MAPS = Case("", "", batch=3, channels=6, spatial=(4, 5), outputs=3)
CHECKS = {
    "cross_connect": checks.check_cross_connect,
    "mix": checks.check_mix,
    "mix_by_channel": lambda case: checks.check_mix(case, by_channel=True),
    "combine": checks.check_combine,
}


@pytest.fixture(params=range(len(KINDS)), ids=lambda at: KINDS[at])
def gradients(request, monkeypatch):
    """Four kinds of gradients in one call, in the order of KINDS from the parameter on."""
    kinds = (KINDS * 2)[request.param : request.param + 4]
    monkeypatch.setattr(checks, "make_grad_ys", lambda case, ys: [*map(_gradient, kinds, ys)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CHECKS)
def test_gradients_that_lie_in_every_way(name, layout, gradients, triton):
    CHECKS[name](replace(MAPS, outputs=4, layout=layout))


def test_walks_of_gradients_that_lie_in_every_way(gradients, method):
    CHECKS["cross_connect"](replace(MAPS, outputs=4))


@pytest.fixture
def strided(monkeypatch):
    """Gives each map that a kernel writes different strides."""

    def new_maps(likes, channels=None):
        return [
            None if x is None else _apart(x, index)
            for index, x in enumerate(launch_arguments.new_maps(likes, channels))
        ]

    for module in (combine, cross_connect, mix, mix_backward):
        monkeypatch.setattr(module, "new_maps", new_maps)


@pytest.mark.parametrize("layout", [*LAYOUTS, "channels_last_slice"])
@pytest.mark.parametrize("name", CHECKS)
def test_outputs_that_lie_in_different_ways(name, layout, strided, triton):
    CHECKS[name](replace(MAPS, layout=layout))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_walks_of_outputs_that_lie_in_different_ways(layout, strided, method):
    CHECKS["cross_connect"](replace(MAPS, layout=layout))


def _apart(x, more):
    """An empty map like x, with a gap of `more` elements before each of its rows in memory."""
    batch, channels, *spatial = x.shape
    if is_channels_last(x):
        return x.new_empty(batch, *spatial, channels + more).movedim(-1, 1)[:, more:]
    rows = x.new_empty(batch, channels, math.prod(spatial) + more)[..., more:]
    return rows.as_strided(x.shape, (*rows.stride()[:2], *x.stride()[2:]), rows.storage_offset())


@pytest.mark.parametrize("before", [False, True], ids=["width_one", "height_one"])
@pytest.mark.parametrize("name", CHECKS)
def test_sequences_as_maps(name, before, triton, monkeypatch):
    """[B, C, L, 1] in channels_last: the stride of a dimension of size 1 decides nothing."""

    def as_maps(factory):
        def make_maps(case):
            return [
                x.detach().unsqueeze(2 if before else 3).requires_grad_() for x in factory(case)
            ]

        return make_maps

    for make in ("make_paths", "make_predictions"):
        monkeypatch.setattr(checks, make, as_maps(getattr(cases, make)))
    case = Case("", "", batch=2, channels=6, spatial=(7,), outputs=2, layout="channels_last")
    CHECKS[name](case)


@pytest.mark.parametrize("hidden", [3, 4])
def test_an_infinite_mean_reaches_no_hidden_unit_that_only_fills_a_block(method, hidden):
    """A block of 4 units holds 3, and the fourth has weights 0: 0 times infinity is NaN."""
    xs = [torch.randn(2, 4, 2, 2, device=where.DEVICE) for _ in range(2)]
    xs[0][0, 0] = INF
    parameters = [
        -torch.ones(2, hidden, 4), torch.zeros(2, hidden),
        torch.randn(2, 2, hidden), torch.randn(2, 2),
    ]  # fmt: skip
    parameters = [p.to(where.DEVICE) for p in parameters]

    def run(module):
        leaves = [t.clone().requires_grad_() for t in (*xs, *parameters)]
        ys, gates = module.cross_connect(leaves[:2], *leaves[2:])
        grads = torch.autograd.grad(
            [*ys, gates], leaves, [torch.ones_like(t) for t in (*ys, gates)]
        )
        return [*ys, gates, *grads]

    for name, actual, expected in zip(range(99), run(functional), run(eager)):
        assert_alike(str(name), actual, expected)
        assert not (name < 3 and actual.isnan().any())
