"""The bytes that the kernels move, and the errors that the meter must catch.

This file runs in Triton's interpreter, where test_triton.py starts it.
"""

import itertools

import pytest
import torch

from proof.where import INTERPRETED

if not INTERPRETED:
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

import triton
import triton.language as tl

from benchmarks.gpu import tables
from benchmarks.gpu.steps import launches
from mpkernels.ops.flags import mask_of
from mpkernels.triton.combine import combine_backward
from mpkernels.triton.gate import gate, gate_backward
from mpkernels.triton.gate_parameter_grads import parameter_gradients
from mpkernels.triton.mix import mix, mix_backward
from proof.problems.networks import Router
from proof.traffic.meter import Meter, TrafficError
from proof.traffic.page import MEASURED, NETWORKS, measure, measure_combine

RESIDENT = {r[1:]: r for n in MEASURED[:2] for r in NETWORKS[n] if r.channels * 3 <= 128 * 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("router", RESIDENT.values(), ids=str)
def test_small_maps_are_at_the_floor(router, dtype):
    for direction, reread in zip(measure(router, dtype), (router.inputs, router.outputs)):
        if direction.method == "resident":
            assert direction.touched == 1.0
            assert direction.launches <= 2
        else:
            floor = (
                router.inputs + router.outputs + (router.inputs if direction.launches == 2 else 0)
            )
            assert direction.touched == 1 + reread / floor and direction.memory == 1.0


@pytest.mark.parametrize("router", [Router("odd", 40, (20, 21), 2, 2)], ids=str)
def test_walked_maps_are_read_twice_and_no_more(router):
    """No block, chunk or tile divides the sizes."""
    big = router._replace(channels=140)
    forward, backward = measure(big, torch.float32)
    assert forward.method == backward.method == "split"
    assert forward.touched == 1 + 2 / 4 and backward.touched == 1 + 2 / 6
    assert forward.memory == backward.memory == 1.0


def test_parts_of_a_batch_are_added_without_a_race():
    """Each part has its own programs; a second launch adds what the first has stored."""
    small = [torch.randn(131, 2, size) for size in (3, 5, 5, 17)]
    parameters = [torch.randn(*s) for s in ((2, 5, 17), (2, 5), (2, 3, 5), (2, 3))]
    with Meter() as meter:
        grads = parameter_gradients(*small, parameters, [True] * 4)
    meter.assert_written_once(*grads)
    assert len(meter.launches) == 2
    assert meter.loaded["parts"] == 2 * 4 * sum(p.numel() for p in parameters)


def small_gate(channels, dtype=torch.float32):
    """Maps of several partial chunks, and the gate's parameters."""
    xs = [torch.randn(2, channels, 20, 21).to(dtype) for _ in range(2)]
    return xs, [torch.randn(*s) for s in ((2, 5, channels), (2, 5), (2, 3, 5), (2, 3))]


def test_gate_reads_maps_once():
    """Several chunks add to the hidden units, and the parts are read back after a barrier."""
    xs, parameters = small_gate(40)
    maps = sum(x.numel() for x in xs) * 4
    with Meter() as meter:
        gates, pooled = gate(xs, parameters, 0)
    meter.assert_written_once(gates, pooled)
    assert meter.launches == ["gate_kernel"] and meter.loaded["xs"] == maps
    assert meter.stored["partial"] == meter.loaded["partial"] == 3 * 4 * 2 * 2 * 5
    with Meter() as meter:
        grad_pooled, *grads = gate_backward(
            gates, [gates, pooled], parameters, 0, mask_of((True,) * 4)
        )
    meter.assert_written_once(grad_pooled, *grads)
    assert meter.launches == ["gate_backward_kernel", "_parameter_gradients_kernel"]


def mix_problem(paths, size, layout="nchw", dtype=torch.float32, batch=2):
    """The m maps and n gradients of mix."""
    m, n = paths

    def map_of():
        x = torch.randn(batch, *size).to(dtype)
        if layout == "gaps":  # rows do not follow each other
            return torch.cat([x, x], -1)[..., : size[-1]]
        last = layout == "channels_last" and x.dim() == 4
        return x.contiguous(memory_format=torch.channels_last) if last else x

    return [map_of() for _ in range(m)], [map_of() for _ in range(n)]


def mix_gates(xs, outputs, kind):
    """Gates [B, m, n] or [B, m, n, C] of every kind of strides."""
    (batch, channels), m = xs[0].shape[:2], len(xs)
    each = [channels] * (kind != "sample" and kind != "sample_expanded")
    if kind == "channel_expanded":
        return torch.randn(1, m, outputs, channels).expand(batch, -1, -1, -1)
    if kind == "sample_expanded":
        return torch.randn(1, m, 1).expand(batch, -1, outputs)
    if kind == "channel_transposed":
        return torch.randn(channels, outputs, m, batch).permute(3, 2, 1, 0)
    return torch.randn(batch, m, outputs, *each)


KINDS_OF_GATES = ["sample", "sample_expanded", "channel", "channel_expanded", "channel_transposed"]
MIXED = [
    ((1, 2), (5, 7, 7), "nchw"),
    ((2, 3), (40, 20, 21), "nchw"),
    ((5, 4), (20, 16, 20), "channels_last"),
    ((3, 2), (6, 40, 40), "nchw"),
    ((3, 2), (20, 20, 21), "channels_last"),
    ((2, 2), (5, 6, 9), "gaps"),
    ((2, 3), (13,), "nchw"),
    ((2, 2), (9000,), "nchw"),
]


@pytest.mark.parametrize("kind", KINDS_OF_GATES)
@pytest.mark.parametrize(("paths", "size", "layout"), MIXED, ids=str)
def test_mix_is_at_the_floor(paths, size, layout, kind):
    """m maps read and n written, backward n and m read and m written, each element once."""
    (m, n), (xs, grads) = paths, mix_problem(paths, size, layout)
    one, gates = xs[0].numel() * 4, mix_gates(xs, n, kind)
    with Meter() as forward:
        ys = mix(xs, gates)
    forward.assert_written_once(*ys)
    assert (forward.loaded["xs"], forward.stored["ys"]) == (m * one, n * one)
    assert forward.launches == ["_mix_kernel"]
    with Meter() as backward:
        results = mix_backward(grads, [], xs, gates, mask_of((True,) * (m + 1)))
    backward.assert_written_once(*results)
    assert all(each.isfinite().all() for each in (*ys, *results))
    assert (backward.loaded["grad_ys"], backward.loaded["xs"]) == (n * one, m * one)
    assert backward.stored["grad_xs"] == m * one and len(backward.launches) <= 2
    # A launch that adds what tiles left runs only where they left something.
    assert ("_mix_sums_kernel" in backward.launches) == (backward.loaded["parts"] > 0)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("by_channel", [False, True], ids=["sample", "channel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("paths", [(2, 2), (4, 4), (5, 4), (8, 8)], ids=str)
def test_what_tiles_of_mix_leave_is_small(paths, dtype, by_channel, layout):
    """At most 2 % of the maps is stored and loaded again, also for gates of channels."""
    (m, n), (xs, grads) = paths, mix_problem(paths, (16, 40, 40), layout, dtype, batch=1)
    gates = mix_gates(xs, n, "channel" if by_channel else "sample")
    with Meter() as meter:
        mix_backward(grads, [], xs, gates, mask_of((True,) * (m + 1)))
    stored = meter.stored["sums"] - gates.nbytes  # the second launch's own
    assert 0 < stored == meter.loaded["parts"]
    assert 2 * stored <= 0.02 * (2 * m + n) * xs[0].nbytes


@pytest.mark.parametrize("kind", ["sample", "channel"])
@pytest.mark.parametrize("size", [(6, 5, 7), (6, 40, 41), (13,)], ids=str)
def test_mix_moves_only_what_a_gradient_needs(size, kind):
    """X is read for the gates' gradient alone; an unused output and a frozen input move nothing."""
    xs, grads = mix_problem((3, 3), size)
    one, gates = xs[0].numel() * 4, mix_gates(xs, 3, kind)
    whole = mix_backward(grads, [], xs, gates, mask_of((True,) * 4))

    def moved(present, wanted):
        given = [grad if p else None for grad, p in zip(grads, present)]
        with Meter() as meter:
            results = mix_backward(given, [], xs, gates, mask_of(wanted))
        meter.assert_written_once(*results)
        # X_0 stands where no gradient is written; what is read there is read as X_0.
        read = meter.loaded["xs"] + meter.loaded["grad_xs"]
        maps = meter.loaded["grad_ys"], read, meter.stored["grad_xs"]
        return results, [bytes // one for bytes in maps]

    for wanted in itertools.product((False, True), repeat=4):
        results, maps = moved((True,) * 3, wanted)
        assert maps == [3 * any(wanted), 3 * wanted[3], sum(wanted[:3])]
        assert all(map(torch.equal, results, [r for r, w in zip(whole, wanted) if w]))
    for present in itertools.product((False, True), repeat=3):
        (*grad_xs, grad_gates), maps = moved(present, (True,) * 4)
        assert maps == [sum(present), 3, 3]
        for j, p in enumerate(present):
            of_output = whole[3][:, :, j] if p else torch.zeros_like(grad_gates[:, :, j])
            assert torch.equal(grad_gates[:, :, j], of_output)


def test_mix_of_no_elements():
    for size in ((0, 3, 2, 2), (2, 3, 0, 2)):
        xs, gates = [torch.ones(size)] * 2, torch.ones(size[0], 2, 1)
        assert [y.shape for y in mix(xs, gates)] == [xs[0].shape]
        *grad_xs, grad_gates = mix_backward(xs[:1], [], xs, gates, mask_of((True,) * 3))
        assert [g.shape for g in grad_xs] == [x.shape for x in xs]
        assert torch.equal(grad_gates, torch.zeros(gates.shape))


@pytest.mark.parametrize("kind", ["sample", "channel"])
@pytest.mark.parametrize("size", [(6, 40, 41), (6, 5, 7), (13,)], ids=str)
def test_a_sample_of_mix_is_the_same_in_any_batch(size, kind):
    xs, grads = mix_problem((2, 3), size, batch=5)
    gates, wanted = mix_gates(xs, 3, kind), mask_of((True,) * 3)
    whole = [*mix(xs, gates), *mix_backward(grads, [], xs, gates, wanted)]
    for sample in range(5):
        x, dy = [[t[sample : sample + 1] for t in each] for each in (xs, grads)]
        gate = gates[sample : sample + 1]
        alone = [*mix(x, gate), *mix_backward(dy, [], x, gate, wanted)]
        assert all(torch.equal(a, w[sample : sample + 1]) for a, w in zip(alone, whole))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "router",
    [
        Router("basecnn", 64, (16, 16), 2, 2),
        Router("basecnn", 128, (8, 8), 2, 2),
        Router("odd", 33, (9, 13), 3, 2),
    ],
    ids=str,
)
def test_combine_is_at_the_floor(router, dtype, layout):
    """Every U, dY and dU moves once; parameters, read per tile, and sums of tiles are small."""
    forward, backward = measure_combine(router, dtype, layout)
    assert (forward.touched, forward.launches) == (1.0, 1)
    assert (backward.touched, backward.launches) == (1.0, 2)
    # Per 64 positions a channel has m biases, scale twice, shift, and sums stored and loaded.
    small = 4 * (router.inputs + 7) / (64 * (2 * router.inputs + 1) * dtype.itemsize)
    assert backward.small <= small + 0.03  # 0.03: parameter gradients, which only two samples share


def test_combine_reads_only_what_a_gradient_needs():
    """Without a ReLU dU needs no U, and an unused output needs nothing."""
    us, grads = [torch.randn(2, 6, 5, 7) for _ in range(2)], [torch.randn(2, 3, 5, 7), None]
    rest = torch.randn(2, 2, 2), [torch.randn(2, 6), torch.randn(2, 3), None]
    with Meter() as meter:
        flags = (True, False, False, True, False, False)
        combine_backward(grads, [], us, *rest, False, mask_of(flags))
    assert meter.loaded["us"] == 0 and meter.loaded["grad_ys"] == grads[0].nbytes
    assert meter.stored["grad_us"] == us[0].nbytes
    with Meter() as meter:
        combine_backward(grads, [], us, *rest, True, mask_of((True, True)))
    assert meter.loaded["us"] == us[0].nbytes and meter.launches == ["_combine_backward_kernel"]


def test_parts_of_a_batch_of_combine_are_added_without_a_race():
    us, grads = [torch.randn(131, 6) for _ in range(2)], [torch.randn(131, 3)] * 2
    gates, *affine = [torch.randn(*s) for s in ((131, 2, 2), (2, 6), (2, 3), (2, 3))]
    with Meter() as meter:
        results = combine_backward(grads, [], us, gates, affine, True, mask_of((True,) * 6))
    meter.assert_written_once(*results)
    assert meter.launches[1:] == ["_combine_sums_kernel", "_add_parts_kernel"]


def test_the_gpu_report_launches_every_kernel():
    """All kernels run by every method with correct results; a kernel that never runs is named."""
    names = [name for name in launches.cases() if name.endswith("fp32") and "CUDA" not in name]
    rows = [launches.run(name, "cpu") for name in names]
    assert all(row["right"] for row in rows)
    assert tables.never_launched(rows) == []
    without = [row for row in rows if "_mix_sums_kernel" not in row["kernels"]]
    assert tables.never_launched(without) == ["_mix_sums_kernel"]


@triton.jit
def _off_by_one_kernel(x, y, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at <= size, other=0.0), mask=at < size)


@triton.jit
def _two_writers_kernel(x, y, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * (BLOCK // 2) + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < size, other=0.0), mask=at < size)


@triton.jit
def _no_other_kernel(x, y, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + tl.program_id(0), tl.sum(tl.load(x + at, mask=at < size), 0))


@triton.jit
def _no_barrier_kernel(x, y, size, BLOCK: tl.constexpr, BARRIER: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < size, other=0.0), mask=at < size)
    if BARRIER:
        tl.debug_barrier()
    tl.store(y + at, 2 * tl.load(y + at, mask=at < size, other=0.0), mask=at < size)


@triton.jit
def _atomic_kernel(x, y, size, BLOCK: tl.constexpr):
    tl.atomic_add(y, tl.sum(tl.load(x + tl.arange(0, BLOCK))))


def run(kernel, grid, size=100, block=64, **constants):
    x, y = torch.randn(size), torch.zeros(size)
    with Meter() as meter:
        kernel[(grid,)](x, y, size, BLOCK=block, **constants)
    return meter, x, y


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (_off_by_one_kernel, "outside the tensors"),
        (_two_writers_kernel, "written by two programs"),
        (_no_barrier_kernel, "without a barrier"),
        (_atomic_kernel, "atomic"),
    ],
)
def test_the_meter_refuses(kernel, message):
    constants = {"BARRIER": False} if kernel is _no_barrier_kernel else {}
    with pytest.raises(Exception, match=message):
        run(kernel, 2, **constants)


def test_the_meter_lets_pass_what_is_right():
    meter, x, y = run(_no_barrier_kernel, 2, BARRIER=True)
    assert torch.equal(y, 2 * x)
    assert meter.loaded == {"x": 400, "y": 400} and meter.stored == {"y": 800}
    with pytest.raises(TrafficError, match=r"stored \[2\] times"):
        meter.assert_written_once(y)


def test_the_meter_shows_lanes_without_a_value():
    _, _, y = run(_no_other_kernel, 2)
    assert not y[0].isnan() and y[1].isnan()


def test_the_meter_sees_gaps_of_a_slice():
    big = torch.randn(4, 40)
    with pytest.raises(Exception, match="outside the tensors"), Meter():
        _off_by_one_kernel[(1,)](big[:, :16], torch.zeros(64), 63, BLOCK=64)
