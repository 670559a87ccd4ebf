"""What all backends have in common besides values: formats, determinism, NaN, autocast, sizes."""

import pytest
import torch

import mpkernels as mpk
from mpkernels import eager, functional
from proof.problems import calls
from proof.problems.cases import Case
from proof.where import INTERPRETED

# The interpreter computes with NumPy, which warns about the NaN that these tests provoke.
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning"),
]

LARGE = (24, 25) if INTERPRETED else (40, 41)  # several chunks, the last one partial
SIZES = [
    Case("small", "", batch=4, channels=16, spatial=(4, 4)),
    Case("large", "", batch=4, channels=24, spatial=LARGE),
    Case("last", "", batch=4, channels=24, spatial=LARGE, layout="channels_last"),
    Case("narrow", "", batch=4, channels=35, spatial=(7, 7), dtype=torch.bfloat16),
]


def step(name, paths, rest, grads=None, functions=functional):
    """One forward and backward: results per sample, gradients of parameters, and `grads`."""
    paths, rest = ([t if t is None else t.detach().requires_grad_() for t in ts]
                   for ts in (paths, rest))  # fmt: skip
    outputs = calls.call(name, functions, paths, rest)
    if grads is None:
        grads = [torch.linspace(-1, 1, y.numel()).to(y).view(y.shape) for y in outputs]
    torch.autograd.backward(outputs, grads)
    grads_of_leaves = [t.grad for t in (*paths, *rest) if t is not None]
    count = len(paths) + (name in calls.GIVEN_GATES)
    outputs = [y.detach() for y in outputs]
    return [*outputs, *grads_of_leaves[:count]], grads_of_leaves[count:], grads


@pytest.mark.parametrize("name", calls.NAMES)
@pytest.mark.parametrize("case", SIZES, ids=str)
def test_equal_bits_over_runs_threads_and_batches(case, name, backend):
    if backend == "eager":
        pytest.skip("the definition's sums are PyTorch's: they may depend on the batch")
    paths, rest = calls.arguments(name, case)
    per_sample, parameter_grads, grads = step(name, paths, rest)
    threads = torch.get_num_threads()
    try:
        for count in (1,) if INTERPRETED else (1, 2, 3):
            torch.set_num_threads(count)
            again = step(name, paths, rest, grads)
            for actual, expected in zip((*again[0], *again[1]), (*per_sample, *parameter_grads)):
                assert torch.equal(actual, expected)
    finally:
        torch.set_num_threads(threads)
    for part in (slice(0, 1), slice(1, 3), slice(3, 4)):
        part_results, _, _ = step(
            name, *calls.slices(name, part, paths, rest), [g[part] for g in grads]
        )
        assert all(torch.equal(a[part], b) for a, b in zip(per_sample, part_results))


@pytest.mark.parametrize("spatial", [(5, 7), (4, 1), (3, 2, 4), (1, 1)])
@pytest.mark.parametrize("name", calls.MAPS)
def test_formats_follow_the_inputs(name, spatial, backend):
    case = Case("", "", batch=2, channels=6, spatial=spatial, inputs=1, outputs=2)
    paths, rest = calls.arguments(name, case)
    y = torch.empty(2, 6, *spatial)

    def last(x):
        return x.detach().movedim(1, -1).contiguous().movedim(-1, 1)

    for x, like in ((paths[0].detach(), y), (last(paths[0]), last(y))):
        x = x.requires_grad_()
        ys = calls.call(name, functional, [x], rest)[:2]
        assert [y.stride() for y in ys] == [like.stride()] * 2
        sum(y.pow(2).sum() for y in ys).backward()
        assert x.grad.stride() == x.stride()


@pytest.mark.parametrize("name", calls.MAPS)
def test_mixed_formats_keep_their_own_gradients(name, backend):
    case = Case("", "", batch=2, channels=6, spatial=(3, 4), outputs=2, layout="mixed")
    paths, rest = calls.arguments(name, case)
    assert paths[0].stride(1) == 12 and paths[1].stride(1) == 1
    ys = calls.call(name, functional, paths, rest)
    assert ys[0].is_contiguous()
    grads = torch.autograd.grad(ys[0].sum(), paths)
    assert [g.stride() for g in grads] == [x.stride() for x in paths]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", calls.NAMES)
def test_nan_and_infinity_propagate_as_in_the_definition(name, value, backend):
    paths, rest = calls.arguments(
        name, Case("", "", channels=4, spatial=(3, 3), dtype=torch.float64)
    )
    with torch.no_grad():
        paths[1][1, 2, 1, 1] = value
    actual, actual_parameters, grads = step(name, paths, rest)
    expected, expected_parameters, _ = step(name, paths, rest, grads, eager)
    for a, e in zip((*actual, *actual_parameters), (*expected, *expected_parameters)):
        assert torch.equal(a.isnan(), e.isnan())
        assert torch.equal(a.isinf(), e.isinf())
    for a in actual:  # a sample does not affect the others
        assert a[[0, 2]].isfinite().all()


@pytest.mark.parametrize("name", calls.MAPS)
def test_an_unused_output_adds_nothing(name, backend):
    """An unused output does not even add 0 times the NaN of a path."""
    paths, rest = calls.arguments(name, Case("", "", channels=4, inputs=2, outputs=2))
    with torch.no_grad():
        paths[0].fill_(float("nan"))

    def grads(functions):
        ys = calls.call(name, functions, paths, rest)
        return torch.autograd.grad(ys[1].sum(), calls.leaves(paths, rest), allow_unused=True)

    for actual, expected in zip(grads(functional), grads(eager)):
        assert torch.equal(actual.isnan(), expected.isnan())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.0, -0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_relu_of_combine_at_its_edge(dtype, value, backend):
    """What enters the ReLU is exactly `value`, in whole vectors and in their tails."""
    us = [torch.full((2, 6, 37), 0.5, dtype=dtype).requires_grad_() for _ in range(2)]
    gates = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).expand(2, 2, 2).clone().requires_grad_()
    shift = torch.full((2, 3), value, requires_grad=True)
    leaves = [*us, gates, shift]

    def run(functions):
        ys = functions.combine(us, gates, shift=shift)
        grads = [torch.full_like(y, 3.0) for y in ys]
        return [*ys, *torch.autograd.grad(ys, leaves, grads)]

    actual, expected = run(functional), run(eager)
    for a, e in zip(actual, expected):
        assert torch.equal(a.isnan(), e.isnan())
        assert torch.equal(a.nan_to_num(), e.nan_to_num())
    passes = not value <= 0
    assert torch.equal(actual[2], torch.full_like(us[0], 3.0 if passes else 0.0))


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((0, 4, 3, 3), "nchw"),
        ((0, 4), "nchw"),
        ((2, 4, 0, 3), "nchw"),
        ((2, 4, 3, 0), "nchw"),
        ((2, 4, 3, 0), "channels_last"),
        ((2, 4, 0), "nchw"),
        ((2, 0, 3), "nchw"),
    ],
)
@pytest.mark.parametrize("name", calls.NAMES)
def test_empty_maps(name, shape, layout, backend):
    if shape[1] == 0 and name in ("cross_connect", "gate"):
        pytest.skip("the table scales w1 by the number of its columns")
    case = Case("", "", batch=shape[0], channels=shape[1], spatial=shape[2:], layout=layout)
    paths, rest = calls.arguments(name, case)
    results, parameter_grads, _ = step(name, paths, rest)
    expected, _, _ = step(name, paths, rest, functions=eager)
    torch.testing.assert_close(results, expected, equal_nan=True)
    if shape[0] == 0 or name == "combine":
        assert all(torch.equal(p, torch.zeros_like(p)) for p in parameter_grads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", calls.NAMES)
def test_autocast_casts_maps_and_leaves_gates(name, dtype, backend):
    paths, rest = calls.arguments(name, Case("", "", channels=4))
    with torch.autocast("cpu", dtype=dtype):
        actual = calls.call(name, functional, [paths[0].to(dtype), paths[1]], rest)
        expected = calls.call(name, eager, paths, rest)
        wide = calls.call(name, functional, [x.double() for x in paths], rest)
    narrow = torch.float32 if name == "gate" else dtype
    assert {y.dtype for y in (*actual[:3], *expected[:3])} == {narrow}
    assert wide[0].dtype == torch.float64
    if name in ("cross_connect", "gate"):
        assert actual[-1].dtype == expected[-1].dtype == torch.float32
        assert (actual[-1] - expected[-1]).abs().max() <= 64 * 2**-24
    sum(y.float().sum() for y in actual).backward()
    assert {t.grad.dtype for t in calls.leaves(paths, rest)} == {torch.float32}


@pytest.mark.parametrize("functions", [functional, eager], ids=["functional", "eager"])
@pytest.mark.parametrize("name", calls.NAMES)
def test_devices_without_autocast(name, functions):
    paths, rest = calls.arguments(name, Case("", "", batch=2, channels=4, spatial=(3, 3)))
    meta = ([t.to("meta") for t in tensors] for tensors in (paths, rest))
    outputs = calls.call(name, functions, *meta)
    assert [y.shape for y in outputs] == [y.shape for y in calls.call(name, eager, paths, rest)]


def strided(t, how):
    """Same shape, other strides; "expanded" repeats the first row."""
    if how == "transposed":
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    if how == "expanded":
        return t[:1].expand(t.shape)
    return torch.cat([t, t], -1)[..., : t.shape[-1]]


@pytest.mark.parametrize("how", ["transposed", "expanded", "sliced"])
@pytest.mark.parametrize("name", calls.NAMES)
def test_parameters_and_gradients_of_gates_of_any_strides(name, how, backend):
    if backend == "eager":
        pytest.skip("the definition's products are PyTorch's: their order may depend on strides")
    paths, rest = calls.arguments(name, Case("", "", channels=4))
    odd = [strided(t.detach(), how) for t in rest]
    grads = [strided(torch.randn(3, 2, 3), how)] if name == "gate" else None
    actual, actual_parameters, grads = step(name, paths, odd, grads)
    if name == "cross_connect":
        grads[-1] = strided(grads[-1], how)
        actual, actual_parameters, _ = step(name, paths, odd, grads)
    dense = [g.contiguous() for g in grads]
    expected, expected_parameters, _ = step(name, paths, [t.contiguous() for t in odd], dense)
    for a, e in zip((*actual, *actual_parameters), (*expected, *expected_parameters)):
        assert torch.equal(a, e)


@pytest.mark.parametrize("name", calls.NAMES)
def test_offsets_beyond_32_bits(name, backend, no_poison):
    """Two samples are 2^31 elements apart; the memory between them is never committed."""
    case = Case("", "", 2, channels=4, spatial=(4, 4), inputs=1, outputs=2, dtype=torch.bfloat16)
    (near,), rest = calls.arguments(name, case)
    near, stride = near.detach(), 2**31 + 64
    far = torch.empty(stride + near[0].numel(), dtype=torch.bfloat16)
    x = far.as_strided(near.shape, (stride, 16, 4, 1))
    x.copy_(near)
    actual, expected = (step(name, [t], rest) for t in (x, near))
    for a, e in zip((*actual[0], *actual[1]), (*expected[0], *expected[1])):
        assert torch.equal(a, e)


@pytest.mark.parametrize("name", calls.NAMES)
def test_many_paths(name, backend):
    if INTERPRETED:
        pytest.skip("minutes in the interpreter; 8 to 8 is in the table")
    case = Case("", "", 2, channels=3, spatial=(4, 4), inputs=11, outputs=9, dtype=torch.float64)
    paths, rest = calls.arguments(name, case)
    actual, actual_parameters, grads = step(name, paths, rest)
    expected, expected_parameters, _ = step(name, paths, rest, grads, eager)
    for a, e in zip((*actual, *actual_parameters), (*expected, *expected_parameters)):
        assert (a - e).abs().max() <= 2**-53 * 1e4 * e.abs().max()


@pytest.mark.parametrize("name", calls.NAMES)
def test_a_path_alone_needs_no_list(name, backend):
    (x,), rest = calls.arguments(name, Case("", "", channels=4, inputs=1))
    for actual, expected in zip(
        calls.call(name, functional, x, rest), calls.call(name, functional, [x], rest)
    ):
        assert torch.equal(actual, expected)


def test_a_router_keeps_its_parameters_wide_under_autocast(backend):
    router, stitch = mpk.CrossConnect(4, 2, 2), mpk.CrossStitch(2)
    xs = [torch.randn(3, 4, 5, 5, requires_grad=True) for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ys, mixed = router(xs), stitch(xs)
    assert {y.dtype for y in (*ys, *mixed)} == {torch.bfloat16}
    sum(y.float().sum() for y in (*ys, *mixed)).backward()
    assert xs[1].grad.dtype == router.w1.grad.dtype == stitch.alpha.grad.dtype == torch.float32
