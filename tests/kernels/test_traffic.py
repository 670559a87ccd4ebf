"""The bytes that the kernels move, and the errors that the meter must catch.

This file runs in Triton's interpreter, where test_triton.py starts it.
"""

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


@pytest.mark.parametrize("by_channel", [False, True], ids=["by_sample", "by_channel"])
def test_mix_is_at_the_floor_but_for_the_gradient_of_gates(by_channel):
    xs, _ = small_gate(40)
    one, m, n = xs[0].numel() * 4, 2, 3
    gates = torch.randn(2, m, n, *[40] * by_channel)
    with Meter() as meter:
        ys = mix(xs, gates)
    meter.assert_written_once(*ys)
    assert (meter.loaded["xs"], meter.stored["ys"]) == (m * one, n * one)
    assert meter.launches == ["_mix_kernel"]
    with Meter() as meter:
        grads = mix_backward(ys, [], xs, gates, mask_of((True,) * 3))
    meter.assert_written_once(*grads)
    # The gates' gradient reads each X once per dY; dX, a mix of the dY, reads each dY once.
    assert meter.loaded["xs"] == n * one + m * one and meter.loaded["grad_ys"] == m * n * one
    assert meter.stored["ys"] == m * one
    assert meter.launches == ["_mix_kernel", "_grad_gates_kernel"]


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
    without = [row for row in rows if "_grad_gates_kernel" not in row["kernels"]]
    assert tables.never_launched(without) == ["_grad_gates_kernel", "_mix_kernel"]


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
