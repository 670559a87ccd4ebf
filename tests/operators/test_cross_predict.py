"""Cross-prediction routers: the equation, batch norm, formats, autocast."""

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d, linear

import mpkernels as mpk
from mpkernels import eager
from proof.bounds import GateBounds, mixed_error
from proof.closeness import ROUNDOFF, assert_close, gamma, rounded
from proof.problems.cross_predictions import F64, KINDS, assert_same, build, dispatched_by, maps

# (m, n): one to many, m > n, m = n, m < n.
PATHS = [(1, 2), (3, 2), (2, 2), (2, 3)]


def by_loops(router, xs):
    """The equations of the paper's section 1 with m*n separate layers, without the package."""
    m, n = router.inputs, router.outputs
    weights = [w.tensor_split(n) for w in router.weight]
    bias = [None] * m if router.bias is None else router.bias
    biases = [[None] * n if b is None else b.tensor_split(n) for b in bias]
    gates, ys = [], []
    for i, x in enumerate(xs):
        z = x.flatten(2).mean(2) if x.dim() > 2 else x
        hidden = torch.relu(linear(z, router.w1[i], None if router.b1 is None else router.b1[i]))
        b2 = None if router.b2 is None else router.b2[i]
        gates.append(linear(hidden, router.w2[i], b2).softmax(-1))
    for j in range(n):
        y = 0
        for i, x in enumerate(xs):
            if x.dim() > 2:
                spans = router.stride, router.padding, router.dilation
                u = conv2d(x, weights[i][j], biases[i][j], *spans)
            else:
                u = linear(x, weights[i][j], biases[i][j])
            y = y + gates[i][:, j].view(-1, *[1] * (u.dim() - 1)) * u
        if len(router.norms):
            norm = router.norms[j]
            statistics = norm.running_mean.clone(), norm.running_var.clone()
            y = batch_norm(y, *statistics, norm.weight, norm.bias, norm.training)
        ys.append(y.relu() if router.relu else y)
    return ys, torch.stack(gates, 1)


def by_router(router, xs):
    """The router's outputs and gates."""
    return router(xs, return_gates=True)


def results(route, router, xs):
    """Outputs, gates, and the gradients of maps and parameters."""
    xs = [x.detach().requires_grad_() for x in xs]
    ys, gates = route(router, xs)
    weights = [torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape) for y in ys]
    loss = sum((y * w).sum() for y, w in zip(ys, weights)) + gates.pow(3).sum()
    return [*ys, gates, *torch.autograd.grad(loss, [*xs, *router.parameters()])]


@pytest.mark.parametrize("norm", ["no_norm", "training", "inference"])
@pytest.mark.parametrize("paths", PATHS, ids="{0[0]}_to_{0[1]}".format)
@pytest.mark.parametrize("kind", KINDS)
def test_the_equation(kind, paths, norm, backend):
    for layout in (torch.contiguous_format, torch.channels_last)[: 1 + (kind == "conv")]:
        router = build(kind, *paths, batch_norm=norm != "no_norm", dtype=F64)
        router.train(norm == "training")
        xs = maps(kind, paths[0], layout=layout)
        expected = results(by_loops, router, xs)
        assert_same(results(by_router, router, xs), expected)
        mpk.unfuse(router)
        assert_same(results(by_router, router, xs), expected)


@pytest.mark.parametrize(
    "options", [{"bias": False}, {"gate_bias": False}, {"relu": False}], ids=str
)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_options(kind, norm, options, backend):
    router = build(kind, 2, 3, batch_norm=norm, dtype=F64, **options).eval()
    assert (router.bias is None) == ("bias" in options)
    assert (router.b1 is None) == (router.b2 is None) == ("gate_bias" in options)
    xs = maps(kind, 2)
    expected = results(by_loops, router, xs)
    assert_same(results(by_router, router, xs), expected)
    assert len(router(xs)) == 3 and isinstance(router(xs), tuple)


def test_padding_by_name():
    router = mpk.CrossPredictConv2d(3, 4, 3, 1, 2, padding="same", dtype=F64)
    x = torch.randn(2, 3, 6, 5, dtype=F64)
    assert_same(router(x), by_loops(router, [x])[0])
    assert router(x)[0].shape == (2, 4, 6, 5)
    valid = mpk.CrossPredictConv2d(3, 4, 3, 1, 2, padding="valid", dtype=F64)
    assert valid(x)[0].shape == (2, 4, 4, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("module", [mpk, eager], ids=["fused", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_narrow_dtypes(kind, module, dtype):
    """Predictions are rounded to the maps' dtype, everything after them to float32."""
    router = build(kind, 3, 2, module, batch_norm=True).to(dtype).eval()
    xs = maps(kind, 3, dtype)
    ys, gates = router(xs, return_gates=True)
    assert gates.dtype == torch.float32 and {y.dtype for y in ys} == {dtype}
    wide, wide_xs = build(kind, 3, 2, batch_norm=True, dtype=F64).eval(), [x.double() for x in xs]
    wide.load_state_dict(router.state_dict())
    expected, _ = by_loops(wide, wide_xs)
    a, u = ROUNDOFF[torch.float32], ROUNDOFF[dtype]
    g = GateBounds(wide_xs, [wide.w1, wide.b1, wide.w2, wide.b2], a).g
    sizes = _sizes(wide, wide_xs)
    terms = wide.weight[0, 0].numel() + 4
    for j, norm in enumerate(wide.norms):
        magnitude = (g.value[:, :, j].T.reshape(3, -1, *[1] * (xs[0].dim() - 1)) * sizes[j]).sum(0)
        error = mixed_error(g, sizes[j], a)[j] + (gamma(terms, a) + 2 * u) * magnitude
        scale, shape = norm.weight.abs() * (norm.running_var + norm.eps).rsqrt(), (1, -1, 1, 1)
        shape = shape[: xs[0].dim()]
        offset = (norm.bias.abs() + scale * norm.running_mean.abs()).view(shape)
        after = scale.view(shape) * (magnitude + error) + offset
        # The eager router rounds the sum, and then the normalised sum, to the maps' dtype.
        between = 2 * u if module is eager else 0
        error = scale.view(shape) * error + (gamma(8, a) + between) * after
        bound = rounded(expected[j], error, dtype, torch.float32)
        assert_close(f"ys[{j}]", ys[j], expected[j], bound.detach())


def _sizes(router, xs):
    """The magnitudes |W_ij| * |X_i| + |b_ij| of each output, [m, B, C', ...]."""
    bare = build("conv" if xs[0].dim() > 2 else "linear", router.inputs, router.outputs, dtype=F64)
    bare.load_state_dict(
        {k: v.abs() for k, v in router.state_dict().items() if not k.startswith("norms")}
    )
    us = [bare._predict(x.abs(), w) for x, w in zip(xs, bare.weight)]
    spatial = (-1, *[1] * (xs[0].dim() - 2))
    magnitudes = torch.stack([u + b.view(spatial) for u, b in zip(us, bare.bias)]).detach()
    return magnitudes.tensor_split(router.outputs, 2)


def test_one_convolution_per_path_and_one_operator_after_it():
    router = build("conv", 3, 2, batch_norm=True, dtype=F64)
    xs = maps("conv", 3)
    ops = dispatched_by(router, xs)
    assert (
        ops.count("convolution"),
        ops.count("batch_norm"),
        ops.count("relu"),
    ) == (3, 2, 2)
    ops = dispatched_by(router.eval(), xs)
    assert (
        ops.count("convolution"),
        ops.count("batch_norm"),
        ops.count("relu"),
    ) == (3, 0, 0)
    assert ops.count("combine") == ops.count("gate") == 1
    assert dispatched_by(mpk.unfuse(router), xs).count("batch_norm") == 2


@pytest.mark.parametrize("change", ["hook", "momentary", "replaced", "other_eps"])
def test_norms_that_cannot_be_folded_run_as_they_are(change):
    router, hook_calls = build("conv", 2, 2, batch_norm=True, dtype=F64).eval(), []
    xs = maps("conv", 2)
    if change == "hook":
        router.norms[1].register_forward_hook(lambda *_: hook_calls.append(1))
    elif change == "momentary":
        router.norms[0] = nn.BatchNorm2d(5, track_running_stats=False, dtype=F64).eval()
    elif change == "replaced":
        router.norms[1] = nn.GroupNorm(1, 5, dtype=F64)
    else:
        router.norms[1].eps = 0.1
    ys = router(xs)
    assert_same(ys, mpk.unfuse(router)(xs))
    assert len(hook_calls) == 2 * (change == "hook")


def test_frozen_norms_fold_in_training_and_still_learn():
    router = build("conv", 2, 2, batch_norm=True, dtype=F64).train()
    router.norms.eval()
    xs = maps("conv", 2)
    assert dispatched_by(router, xs).count("batch_norm") == 0
    expected = results(by_loops, router, xs)
    assert_same(results(by_router, router, xs), expected)
    without = build("conv", 2, 2, batch_norm=True, dtype=F64).eval()
    without.norms = nn.ModuleList(nn.BatchNorm2d(5, affine=False, dtype=F64) for _ in range(2))
    assert_same(without.eval()(xs), mpk.unfuse(without)(xs))


@pytest.mark.parametrize("kind", KINDS)
def test_running_statistics_are_those_of_eager(kind):
    plain, fused = (
        build(kind, 2, 3, module, batch_norm=True, dtype=F64) for module in (eager, mpk)
    )
    fused.load_state_dict(plain.state_dict())
    for _ in range(2):
        xs = maps(kind, 2)
        assert_same(fused(xs), plain(xs))
    states = zip(plain.state_dict().items(), fused.state_dict().items(), strict=True)
    for (name, a), (same, b) in states:
        assert name == same
        assert (a - b).abs().max() <= 2**-53 * 1e4 * a.abs().max() if a.dim() else torch.equal(a, b)


def test_parameters_start_as_those_of_torchs_layers():
    conv = mpk.CrossPredictConv2d(16, 32, 3, 4, 2, hidden=8)
    dense = mpk.CrossPredictLinear(64, 32, 4, 2, hidden=8)
    assert conv.weight.shape == (4, 64, 16, 3, 3) and dense.weight.shape == (4, 64, 64)
    assert conv.bias.shape == dense.bias.shape == (4, 64)
    layers = nn.Conv2d(16, 64, 3), nn.Linear(64, 64)
    for router, layer, fan_in in zip((conv, dense), layers, (144, 64)):
        for mine, theirs in ((router.weight, layer.weight), (router.bias, layer.bias)):
            bound = fan_in**-0.5 * (1 + 2**-20)
            # 64 draws miss nine tenths of their bound in about one of a thousand seeds.
            assert 0.9 * bound < mine.abs().max() <= bound and theirs.abs().max() <= bound
            assert mine.mean().abs() < 4 * bound / (3 * mine.numel()) ** 0.5
    shapes = [tuple(p.shape) for p in (conv.w1, conv.b1, conv.w2, conv.b2)]
    assert shapes == [(4, 8, 16), (4, 8), (4, 2, 8), (4, 2)]
    names = ["w1", "b1", "w2", "b2", "weight", "bias"]
    assert [name for name, _ in conv.named_parameters()] == names
    meta = mpk.CrossPredictConv2d(3, 4, 3, 1, 2, batch_norm=True, device="meta", dtype=F64)
    assert {(p.device.type, p.dtype) for p in meta.parameters()} == {("meta", F64)}
    before = conv.weight.clone()
    conv.reset_parameters()
    assert not torch.equal(conv.weight, before)


@pytest.mark.parametrize("module", [mpk, eager], ids=["fused", "eager"])
def test_channels_last_converts_the_filters_of_each_path(module):
    router = build("conv", 2, 3, module, batch_norm=True, dtype=F64)
    xs = maps("conv", 2)
    expected, state = router(xs), {k: v.clone() for k, v in router.state_dict().items()}
    net = nn.Sequential(router).to(memory_format=torch.channels_last)
    assert router.weight.shape == state["weight"].shape and torch.equal(
        router.weight, state["weight"]
    )
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in router.weight)
    last = [x.contiguous(memory_format=torch.channels_last) for x in xs]
    ys = net(last)
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in ys)
    assert_same(ys, expected)
    router.load_state_dict(state)
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in router.weight)
    assert net.to(torch.float32)[0].weight.dtype == torch.float32


@pytest.mark.parametrize("module", [mpk, eager], ids=["fused", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind, module):
    router, xs = build(kind, 2, 2, module, batch_norm=True), maps(kind, 2, torch.float32)
    for mode in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            ys, gates = router.train(mode)(xs, return_gates=True)
        assert {y.dtype for y in ys} == {torch.bfloat16} and gates.dtype == torch.float32
        (sum(y.float().sum() for y in ys) + gates.pow(2).sum()).backward()
        assert {p.grad.dtype for p in router.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        ys = router.double()([x.double() for x in xs])
        assert {y.dtype for y in ys} == {F64}


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_tensor_is_one_path_and_a_batch_may_be_empty(kind):
    router = build(kind, 1, 2, batch_norm=True, dtype=F64).eval()
    (x,) = maps(kind, 1)
    assert all(torch.equal(a, b) for a, b in zip(router(x), router([x])))
    ys, gates = router(x[:0], return_gates=True)
    assert gates.shape == (0, 1, 2) and [y.shape for y in ys] == [(0, *router(x)[0].shape[1:])] * 2
