"""Modules: initialisation, and laws that hold for every input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mpkernels as mpk
from mpkernels import functional


def test_parameters_are_as_linear_layers_initialise_them():
    torch.manual_seed(0)
    router = mpk.CrossConnect(64, 4, 4, hidden=32)
    assert [tuple(p.shape) for p in router.parameters()] == [
        (4, 32, 64),
        (4, 32),
        (4, 4, 32),
        (4, 4),
    ]
    for p, fan_in in zip(router.parameters(), (64, 64, 32, 32)):
        bound = fan_in**-0.5
        assert bound * 0.7 < p.abs().max() <= bound
    assert mpk.CrossConnect(4, 1, 2, gate_bias=False).b1 is None


STARTS = {
    "linear": (lambda fan_in, out: fan_in**-0.5, False),
    "glorot": (lambda fan_in, out: (6 / (fan_in + out)) ** 0.5, True),
}


@pytest.mark.parametrize("start", STARTS)
def test_gates_start_within_their_bound(start):
    torch.manual_seed(0)
    bound, no_biases = STARTS[start]
    for router in (
        mpk.CrossConnect(64, 3, 40, 32, gate_init=start),
        mpk.CrossPredictConv2d(64, 2, 1, 3, 40, hidden=32, gate_init=start),
        mpk.CrossPredictLinear(64, 2, 3, 40, hidden=32, gate_init=start),
    ):
        assert (f"gate_init={start!r}" in repr(router)) == (start != "linear")
        for w, b in ((router.w1, router.b1), (router.w2, router.b2)):
            most = bound(w.shape[2], w.shape[1])
            assert most * 0.95 < w.abs().max() <= most
            assert b.count_nonzero() == (0 if no_biases else b.numel())


def test_gates_start_as_he_draws_them():
    torch.manual_seed(0)
    router = mpk.CrossConnect(64, 8, 40, 64, gate_init="he")
    for w, b in ((router.w1, router.b1), (router.w2, router.b2)):
        assert abs(w.std() / (2 / w.shape[2]) ** 0.5 - 1) < 0.05 and abs(w.mean()) < 0.01
        assert b.count_nonzero() == 0
    state = mpk.CrossConnect(64, 8, 40, 64).state_dict()
    router.load_state_dict(state)
    with pytest.raises(ValueError, match="gate_init must be one of linear, glorot, he, got 'x'"):
        mpk.CrossConnect(4, 1, 2, gate_init="x")


def test_stitches_start_as_softened_identities():
    assert torch.equal(mpk.CrossStitch(2).alpha, torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
    three = mpk.CrossStitch(3).alpha
    assert (
        torch.equal(three.diagonal(), torch.full((3,), 0.9)) and three[0, 1] == three[2, 0] == 0.05
    )
    assert torch.equal(mpk.CrossStitch(inputs=1, outputs=2).alpha, torch.ones(1, 2))
    assert torch.equal(mpk.CrossStitch(1).alpha, torch.ones(1, 1))

    by_channel = mpk.CrossStitch(3, channels=4).alpha
    assert torch.equal(by_channel, three.unsqueeze(-1).expand(3, 3, 4))
    assert torch.equal(
        mpk.CrossStitch(inputs=3, outputs=2, channels=2).alpha.sum(0), torch.ones(2, 2)
    )


STITCHES = pytest.mark.parametrize("channels", [None, 4], ids=["by_map", "by_channel"])


@STITCHES
def test_a_stitch_sums_its_gradient_over_batch_and_space(channels, backend):
    stitch = mpk.CrossStitch(inputs=3, outputs=2, channels=channels).double()
    with torch.no_grad():
        stitch.alpha.normal_()
    xs = [torch.randn(3, 4, 5, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    ys, gates = stitch(xs, return_gates=True)
    assert gates.shape == (3, *stitch.alpha.shape) and gates.stride(0) == 0
    weights = stitch.alpha.detach().reshape(3, 2, -1, 1, 1).expand(3, 2, 4, 1, 1)
    for j, y in enumerate(ys):
        assert (y - sum(weights[i, j] * x for i, x in enumerate(xs))).abs().max() <= 2**-48
    (ys[0].sum() + 2 * ys[1].sum()).backward()
    totals = torch.stack([x.detach().sum((0, 2, 3)) for x in xs])
    expected = torch.stack([totals, 2 * totals], 1)
    expected = expected.sum(2) if channels is None else expected
    assert stitch.alpha.grad.shape == expected.shape
    assert (stitch.alpha.grad - expected).abs().max() <= 2**-53 * 1e3 * expected.abs().max()
    for i, x in enumerate(xs):
        expected = (weights[i, 0] + 2 * weights[i, 1]).expand(3, 4, 5, 5)
        assert (x.grad - expected).abs().max() <= 2**-53 * 1e3 * expected.abs().max()


@STITCHES
def test_a_stitch_makes_no_copy_of_its_weights(channels, backend):
    stitch, xs = mpk.CrossStitch(2, channels=channels), [torch.randn(3, 4, 5, 5) for _ in range(2)]
    with torch.no_grad(), torch.profiler.profile(acc_events=True) as profile:
        stitch(xs)
    names = {event.key for event in profile.key_averages()}
    assert names & {"mpkernels::mix", "aten::expand"} == {"mpkernels::mix", "aten::expand"}
    copies = ("clone", "copy_", "contiguous", "repeat", "_to_copy", "cat", "stack")
    assert [n for n in names if n.removeprefix("aten::") in copies] == []


def test_a_single_tensor_is_one_path(backend):
    router = mpk.CrossConnect(4, 1, 2)
    x = torch.randn(3, 4, 5, 5)
    assert all(torch.equal(a, b) for a, b in zip(router(x), router([x])))
    gates = torch.rand(3, 1, 2)
    assert torch.equal(functional.mix(x, gates)[0], functional.mix([x], gates)[0])


SIZES = st.tuples(*(st.integers(1, top) for top in (4, 5, 6, 4, 5)))


@settings(deadline=None, max_examples=40)
@given(sizes=SIZES, seed=st.integers(0, 2**31), last=st.booleans())
def test_laws(sizes, seed, last):
    """sum_j Y_j = sum_i X_i; gate rows sum to 1; outputs permute; a mix is linear in X."""
    batch, channels, side, m, n = sizes
    torch.manual_seed(seed)
    xs = [torch.randn(batch, channels, side, 2, dtype=torch.float64) for _ in range(m)]
    if last:
        xs = [x.contiguous(memory_format=torch.channels_last) for x in xs]
    router = mpk.CrossConnect(channels, m, n).double()
    with torch.no_grad():
        ys, gates = router(xs, return_gates=True)
        tiny = 2**-53 * 64 * (1 + sum(x.abs() for x in xs))
        assert ((sum(ys) - sum(xs)).abs() <= tiny).all()
        assert ((gates.sum(-1) - 1).abs() <= 2**-50).all() and (gates >= 0).all()
        order = torch.randperm(n)
        router.w2.copy_(router.w2[:, order].clone())
        router.b2.copy_(router.b2[:, order].clone())
        permuted = router(xs)
        assert all((p - ys[j]).abs().le(tiny).all() for p, j in zip(permuted, order))
        twice = functional.mix([2 * x for x in xs], gates)
        assert all(torch.equal(t, 2 * y) for t, y in zip(twice, functional.mix(xs, gates)))
