"""What every backend shares beside values: formats, determinism, NaN, autocast, sizes."""

import pytest
import torch
from cases import Case, make_grad_ys, make_parameters, make_paths
from conftest import INTERPRETED

import mpkernels as mpk
from mpkernels import eager, functional

# The interpreter computes with NumPy, which warns of the NaN that these tests ask for.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

SIZES = [
    Case("small", "", batch=4, channels=16, spatial=(4, 4)),
    Case("large", "", batch=4, channels=24, spatial=(40, 41)),
    Case("narrow", "", batch=4, channels=35, spatial=(7, 7), dtype=torch.bfloat16),
]


def step(case, xs, parameters, grad_ys):
    """All results of one forward and backward."""
    xs = [x.detach().requires_grad_() for x in xs]
    parameters = [p.detach().requires_grad_() for p in parameters]
    ys, gates = functional.cross_connect(xs, *parameters)
    torch.autograd.backward([*ys, gates], [*grad_ys, torch.ones_like(gates).cumsum(-1)])
    return [*ys, gates, *(x.grad for x in xs)], [p.grad for p in parameters]


@pytest.mark.parametrize("case", SIZES, ids=str)
def test_equal_bits_over_runs_threads_and_batches(case, backend):
    if backend == "eager":
        pytest.skip("the definition's sums are PyTorch's: they may depend on the batch")
    xs, parameters = make_paths(case), list(make_parameters(case).values())
    grad_ys = make_grad_ys(case, [xs[0]] * case.outputs)
    maps, weights = step(case, xs, parameters, grad_ys)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            again = step(case, xs, parameters, grad_ys)
            assert all(torch.equal(a, b) for a, b in zip([*maps, *weights], [*again[0], *again[1]]))
    finally:
        torch.set_num_threads(threads)
    for part in (slice(0, 1), slice(1, 3), slice(3, 4)):
        part_of, _ = step(case, [x[part] for x in xs], parameters, [g[part] for g in grad_ys])
        assert all(torch.equal(a[part], b) for a, b in zip(maps, part_of))


@pytest.mark.parametrize("spatial", [(5, 7), (4, 1), (3, 2, 4), (1, 1)])
def test_formats_follow_the_inputs(spatial, backend):
    dense = torch.randn(2, 6, *spatial)
    last = dense.movedim(1, -1).contiguous().movedim(-1, 1)
    router = mpk.CrossConnect(6, 1, 2)
    for x in (dense, last):
        x = x.requires_grad_()
        ys = router(x)
        assert [y.stride() for y in ys] == [x.stride()] * 2
        sum(y.pow(2).sum() for y in ys).backward()
        assert x.grad.stride() == x.stride()


def test_mixed_formats_keep_their_own_gradients(backend):
    a = torch.randn(2, 6, 3, 4, requires_grad=True)
    b = torch.randn(2, 3, 4, 6).movedim(-1, 1).requires_grad_()
    ys = mpk.CrossConnect(6, 2, 2)([a, b])
    assert ys[0].stride() == a.stride()
    grads = torch.autograd.grad(ys[0].sum(), [a, b])
    assert [g.stride() for g in grads] == [a.stride(), b.stride()]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_propagate_as_in_the_definition(value, backend):
    xs = [torch.randn(3, 4, 3, 3, dtype=torch.float64) for _ in range(2)]
    xs[1][1, 2, 1, 1] = value
    router = mpk.CrossConnect(4, 2, 3).double()
    parameters = list(router.parameters())

    def run(function):
        inputs = [x.clone().requires_grad_() for x in xs]
        ys, gates = function(inputs, router.w1, router.b1, router.w2, router.b2)
        loss = sum(y.sum() for y in ys) + gates.pow(2).sum()
        return [*ys, gates, *torch.autograd.grad(loss, [*inputs, *parameters])]

    for found, wanted in zip(run(functional.cross_connect), run(eager.cross_connect)):
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(found.isinf(), wanted.isinf())
        if found.shape[0] == 3:  # a sample does not reach the others
            assert found[[0, 2]].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (0, 4), (2, 4, 0, 3), (2, 4, 0)])
def test_empty_maps(shape, backend):
    xs = [torch.randn(shape, requires_grad=True) for _ in range(2)]
    router = mpk.CrossConnect(4, 2, 3)
    ys, gates = router(xs, return_gates=True)
    assert [y.shape for y in ys] == [torch.Size(shape)] * 3 and gates.shape == (shape[0], 2, 3)
    sum(y.sum() for y in ys).backward()
    assert xs[0].grad.shape == shape
    if shape[0] == 0:
        assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in router.parameters())
    mixed = functional.mix(xs, torch.ones(shape[0], 2, 1))
    assert mixed[0].shape == shape
    assert functional.gate(xs, router.w1, router.b1, router.w2, router.b2).shape == gates.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_maps_and_leaves_gates(dtype, backend):
    router = mpk.CrossConnect(4, 2, 2)
    stitch = mpk.CrossStitch(2)
    plain = mpk.unfuse(mpk.CrossConnect(4, 2, 2))
    plain.load_state_dict(router.state_dict())
    xs = [torch.randn(3, 4, 5, 5, requires_grad=True) for _ in range(2)]
    with torch.autocast("cpu", dtype=dtype):
        ys, gates = router([xs[0].to(dtype), xs[1]], return_gates=True)
        wanted_ys, wanted_gates = plain(xs, return_gates=True)
        mixed = stitch(xs)
    assert {y.dtype for y in (*ys, *wanted_ys, *mixed)} == {dtype}
    assert gates.dtype == wanted_gates.dtype == torch.float32
    assert (gates - wanted_gates).abs().max() <= 64 * 2**-24
    sum(y.float().sum() for y in ys).backward()
    assert xs[1].grad.dtype == torch.float32 and router.w1.grad.dtype == torch.float32
    with torch.autocast("cpu", dtype=dtype):
        wide = router([x.double() for x in xs])
    assert wide[0].dtype == torch.float64


@pytest.mark.parametrize("kind", [mpk.CrossConnect, mpk.eager.CrossConnect])
def test_devices_without_autocast(kind):
    router = kind(4, 2, 3).to("meta")
    xs = [torch.empty(2, 4, 3, 3, device="meta") for _ in range(2)]
    ys, gates = router(xs, return_gates=True)
    assert [y.shape for y in ys] == [(2, 4, 3, 3)] * 3 and gates.shape == (2, 2, 3)


def test_offsets_beyond_32_bits(backend):
    """Two samples 2^31 elements apart; memory that nobody touches is never committed."""
    torch.use_deterministic_algorithms(False)  # it would fill, and so commit, all of it
    stride = 2**31 + 64
    far = torch.empty(stride + 64, dtype=torch.bfloat16)
    x = far.as_strided((2, 4, 4, 4), (stride, 16, 4, 1))
    near = torch.randn(2, 4, 4, 4).to(torch.bfloat16)
    x.copy_(near)
    router = mpk.CrossConnect(4, 1, 2)
    found, wanted = router(x), router(near)
    assert all(torch.equal(f, w) for f, w in zip(found, wanted))
    gates = torch.rand(2, 1, 2)
    assert torch.equal(functional.mix(x, gates)[1], functional.mix(near, gates)[1])
    leaf = x.requires_grad_()
    (grad,) = torch.autograd.grad(router(leaf)[0].sum(), leaf)
    other = near.requires_grad_()
    (same,) = torch.autograd.grad(router(other)[0].sum(), other)
    assert torch.equal(grad, same)


def test_many_paths(backend):
    if INTERPRETED:
        pytest.skip("minutes in the interpreter; 8 to 8 is in the table")
    xs = [torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(11)]
    router = mpk.CrossConnect(3, 11, 9).double()
    found = router(xs)
    wanted, _ = eager.cross_connect(xs, router.w1, router.b1, router.w2, router.b2)
    for f, w in zip(found, wanted):
        assert (f - w).abs().max() <= 2**-53 * 1e4 * w.abs().max()
