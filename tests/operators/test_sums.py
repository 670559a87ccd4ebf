"""Long sums are as accurate as PyTorch's own, whose error does not grow with their length."""

import math

import pytest
import torch

import mpkernels as mpk
from mpkernels import eager, functional

ULP = 2.0**-23
LENGTHS = [64, 1000, 4096, 2**14, 2**17]
FULL = [2**20, 2**22, 2**25]


def maps(count, channels, positions, channels_last, batch=1, draw=torch.rand):
    tensors = [draw(batch, positions, channels) for _ in range(count)]
    tensors = [x.transpose(1, 2) for x in tensors]
    return tensors if channels_last else [x.contiguous() for x in tensors]


def worst(actual, expected):
    """The largest error, relative to the largest value."""
    error = (actual.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-300)
    return error.item()


def assert_as_good(name, actual, plain, expected):
    """At most four times the error of the definition in the same dtype, and two ulps."""
    ours, theirs = worst(actual, expected), worst(plain, expected)
    assert ours <= 4 * theirs + 2 * ULP, f"{name}: off by {ours:.3g}, eager by {theirs:.3g}"


def gradients(function, leaves, others, grad_outputs, dtype):
    """All gradients of a function of the leaves."""
    leaves = [t.detach().to(dtype).requires_grad_() for t in leaves]
    outputs = function(leaves, *others)
    torch.autograd.backward(outputs, [g.to(dtype) for g in grad_outputs])
    return [t.grad for t in leaves]


def compare_gradients(fused, reference, leaves, grad_outputs):
    arguments = leaves, (), grad_outputs
    expected = gradients(reference, *arguments, torch.float64)
    actual = gradients(fused, *arguments, torch.float32)
    eager_grads = gradients(reference, *arguments, torch.float32)
    for index, (f, t, w) in enumerate(zip(actual, eager_grads, expected)):
        assert_as_good(f"gradient {index}", f, t, w)


def lengths(cases):
    full = [pytest.param(size, marks=pytest.mark.slow) for size in FULL]
    return pytest.mark.parametrize("positions", [*cases, *full])


formats = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])


@formats
@lengths(LENGTHS)
def test_means(positions, channels_last):
    channels = 16 if positions <= 2**20 else 2
    xs = maps(2, channels, positions, channels_last)
    w1, w2 = torch.randn(2, 16, channels), torch.randn(2, 2, 16)
    pooled = torch.ops.mpkernels.gate(xs, [w1, None, w2, None], 0)[1]
    plain = torch.stack([eager.pool(x) for x in xs], 1)
    expected = torch.stack([x.double().mean(2) for x in xs], 1)
    assert_as_good("pooled", pooled, plain, expected)


@formats
@lengths(LENGTHS)
def test_gradients_of_cross_connect(positions, channels_last):
    channels = 8 if positions <= 2**20 else 1
    xs = maps(2, channels, positions, channels_last, draw=torch.randn)
    grad_ys = maps(2, channels, positions, channels_last, draw=torch.randn)
    parameters = [torch.randn(s) / 4 for s in ((2, 16, channels), (2, 16), (2, 2, 16), (2, 2))]

    def route(module):
        def outputs(leaves):
            ys, gates = module.cross_connect(leaves[:2], *leaves[2:])
            return [*ys, gates]

        return outputs

    # The gates' gradient is random, since one that cancels to nothing would prove nothing.
    leaves = [*xs, *parameters]
    compare_gradients(route(functional), route(eager), leaves, [*grad_ys, torch.randn(1, 2, 2)])


@pytest.mark.parametrize("by_channel", [False, True], ids=["by_sample", "by_channel"])
@formats
@lengths(LENGTHS)
def test_gradients_of_mix(positions, channels_last, by_channel):
    channels = 8 if positions <= 2**20 else 1
    xs = maps(2, channels, positions, channels_last)
    gates = torch.rand((1, 2, 2, channels) if by_channel else (1, 2, 2))
    grad_ys = maps(2, channels, positions, channels_last)

    def mixed(module):
        return lambda leaves: module.mix(leaves[:2], leaves[2])

    compare_gradients(mixed(functional), mixed(eager), [*xs, gates], grad_ys)


@pytest.mark.parametrize("inputs", [2, 5])
@formats
@lengths(LENGTHS)
def test_gradients_of_combine(positions, channels_last, inputs):
    if inputs == 5 and positions > 2**20:
        pytest.skip("it runs the same loops as 2^20 positions")
    channels = 4 if positions <= 2**20 else 1
    us = maps(inputs, 2 * channels, positions, channels_last)
    shapes = (1, inputs, 2), (inputs, 2 * channels), (2, channels), (2, channels)
    parameters = [torch.rand(shape) for shape in shapes]
    grad_ys = maps(2, channels, positions, channels_last)

    def combined(module):
        def outputs(leaves):
            gates, bias, scale, shift = leaves[inputs:]
            return module.combine(leaves[:inputs], gates, bias, True, scale, shift)

        return outputs

    leaves = [*us, *parameters]
    compare_gradients(combined(functional), combined(eager), leaves, grad_ys)


@pytest.mark.parametrize("batch", [64, 5000, 2**17])
@pytest.mark.parametrize("router", ["cross_connect", "combine", "cross_predict"])
def test_gradients_of_parameters_over_a_batch(batch, router):
    inputs, outputs, channels = 2, 2, 5
    xs = [torch.rand(batch, channels) for _ in range(inputs)]
    gate = [torch.randn(s) for s in ((inputs, 8, channels), (inputs, 8), (inputs, outputs, 8))]
    predicted = [torch.rand(inputs, outputs * 3, channels), torch.rand(inputs, outputs * 3)]

    def routed(module):
        def outputs_of(leaves):
            if router == "cross_connect":
                return module.cross_connect(xs_of(leaves), *leaves, None)[0]
            if router == "cross_predict":
                return module.cross_predict(xs_of(leaves), *leaves, None)[0]
            us = [x @ w.T for x, w in zip(xs_of(leaves), leaves[0])]
            gates = torch.full((batch, inputs, outputs), 0.5, dtype=us[0].dtype)
            return module.combine(us, gates, leaves[1])

        return outputs_of

    def xs_of(leaves):
        return [x.to(leaves[0].dtype) for x in xs]

    leaves = {"cross_connect": gate, "combine": predicted, "cross_predict": [*predicted, *gate]}
    width = channels if router == "cross_connect" else 3
    grad_ys = [torch.rand(batch, width) for _ in range(outputs)]
    compare_gradients(routed(functional), routed(eager), leaves[router], grad_ys)


@formats
def test_ones_pool_to_one(channels_last):
    x = torch.ones(1).expand(1, 2, 2**25)
    if channels_last:
        x = torch.ones(1, 2**25, 2).transpose(1, 2)
    pooled = torch.ops.mpkernels.gate(
        [x], [torch.ones(1, 1, 2), None, torch.ones(1, 1, 1), None], 0
    )[1]
    assert pooled.tolist() == [[[1.0, 1.0]]]


@formats
def test_the_order_does_not_depend_on_threads(channels_last):
    xs = maps(2, 24, 2**16, channels_last, draw=torch.randn)
    grad_ys = maps(2, 24, 2**16, channels_last, draw=torch.randn)
    router = mpk.CrossConnect(24, 2, 2)

    def run():
        leaves = [x.detach().requires_grad_() for x in xs]
        ys, gates = router(leaves, return_gates=True)
        parameters = list(router.parameters())
        grads = torch.autograd.grad(ys, [*leaves, *parameters], grad_ys)
        us = [torch.cat([x, x], 1) for x in xs]
        combined = [u.detach().requires_grad_() for u in us]
        weights = gates.detach().requires_grad_()
        outputs = functional.combine(combined, weights)
        return [*ys, gates, *grads, *torch.autograd.grad(outputs, [*combined, weights], grad_ys)]

    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(run())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*results))
    assert not any(math.isnan(t.sum().item()) for t in results[0])
