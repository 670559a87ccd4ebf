"""Long sums in Triton's kernels: every level of them runs, and their error stays small.

The kernels run in the interpreter or on a GPU. A sum in levels of at most 512 terms is off by at
most `depth` roundings of its terms' magnitudes, where `depth` is the number of terms summed over
the levels; for a serial sum it is the length. Errors that do not all point one way add up to about
the square root of that, which is the statistical bound.
"""

import itertools
from dataclasses import replace

import pytest
import torch

from proof import where
from proof.checks import check_combine, check_cross_connect, check_gate, check_mix
from proof.closeness import ROUNDOFF, exact, gamma
from proof.problems import calls
from proof.problems.cases import Case
from proof.where import INTERPRETED

if not INTERPRETED and where.DEVICE == "cpu":
    pytest.skip("needs TRITON_INTERPRET=1, or a GPU", allow_module_level=True)

import triton.language as tl

from mpkernels import eager, functional, use_backend
from mpkernels.ops.layout import Geometry
from mpkernels.triton import (
    combine,
    combine_parameter_grads,
    gate_parameter_grads,
    launch,
    mix,
    mix_backward,
    mix_channels,
    mix_launch,
    mix_tiles,
    sums,
)
from mpkernels.triton.tuned import launch_for

LAYOUTS = ["nchw", "channels_last"]
# Two levels of a loop, and the 2,048 values of a tile, which NumPy may add one after another.
DEPTH = 2 * sums.MOST.value + launch.WALK_ELEMENTS
F32 = ROUNDOFF[torch.float32]


@pytest.fixture(autouse=True)
def triton_backend():
    with use_backend("triton"):
        yield


@pytest.fixture
def walked(request, monkeypatch):
    """Forces samples to be walked by the method that a test names."""
    monkeypatch.setattr(launch, "RESIDENT_ELEMENTS", 0)
    monkeypatch.setattr(launch, "RESIDENT_UNALIGNED", 0)
    monkeypatch.setattr(launch, "BUSY_SHARE", 0 if request.param == "streamed" else 1e9)
    launch_for.cache_clear()
    yield request.param
    launch_for.cache_clear()


WALKED = pytest.mark.parametrize("walked", ["streamed", "split"], indirect=True)


def short_spans(geometry, *_):
    """Eight positions a program, in four or two steps."""
    tile = (2, 2, 2, 1) if geometry.channels_last else (2, 1, 4, 2)
    return mix_launch.ChannelTile(8, *tile, num_warps=1)


@pytest.fixture
def short(monkeypatch):
    """Limits accumulators to two terms, or four in long sums, and makes tiles small."""
    if not INTERPRETED:
        pytest.skip("compiled kernels keep their constants")
    monkeypatch.setattr(launch, "SUM_TERMS", 2)
    monkeypatch.setattr(sums, "TERMS", tl.constexpr(2))
    monkeypatch.setattr(sums, "MOST", tl.constexpr(4))
    for name in ("WALK_ELEMENTS", "WALK_WEIGHTS", "CHUNK_ELEMENTS"):
        monkeypatch.setattr(launch, name, 32)
    monkeypatch.setattr(launch, "RESIDENT_WEIGHTS", 0)
    monkeypatch.setattr(mix, "mix_tile", lambda *_: launch.Tile(4, 8, 4))
    monkeypatch.setattr(mix_backward, "mix_backward_tile", lambda *_: launch.Tile(4, 8, 4))
    monkeypatch.setattr(mix_channels, "mix_channel_tile", short_spans)
    monkeypatch.setattr(mix_backward, "_VALUES", 8)
    monkeypatch.setattr(mix_backward, "_SUMS", 4)
    monkeypatch.setattr(combine, "combine_tile", lambda *_: launch.Tile(4, 8, 4))
    monkeypatch.setattr(combine_parameter_grads, "_VALUES", 64)
    monkeypatch.setattr(combine_parameter_grads, "_GATES", 16)
    # One sample per part: 37 samples in steps of 16 are more than an accumulator takes.
    monkeypatch.setattr(launch, "PARAMETER_SAMPLES", 1)
    monkeypatch.setattr(gate_parameter_grads, "PARAMETER_SAMPLES", 1)
    launch_for.cache_clear()
    yield
    launch_for.cache_clear()


# 11 positions are one step; 255 are several of the longest spans, the last one partial.
SIZES = [Case("few", "", spatial=(11,)), Case("many", "", batch=1, channels=5, spatial=(17, 15))]
SHAPES = [replace(c, name=f"{c}_{x}", layout=x) for c in SIZES for x in LAYOUTS]
BATCH = Case("batch", "", batch=37, channels=3, spatial=(2, 2), inputs=1, outputs=2)


@WALKED
@pytest.mark.parametrize("case", [*SHAPES, BATCH], ids=str)
def test_cross_connect_by_every_level(case, walked, short):
    check_cross_connect(case)


@pytest.mark.parametrize("case", [*SHAPES, Case("wide", "", channels=67, spatial=())], ids=str)
def test_other_operators_by_every_level(case, short):
    check_gate(case)
    for by_channel in (False, True):
        check_mix(case, by_channel)
    check_combine(case)


def test_parameters_of_combine_by_every_level(short):
    check_combine(BATCH)


def test_levels_suffice():
    """No level takes over 512 terms, for 2^25 positions in either format and batches of 2^20."""
    for last in (False, True):
        for channels in (1, 3, 16, 64, 512, 4096):
            for itemsize in (2, 4, 8):
                geometry = Geometry(last, 1, channels, 2**25)
                chunks = launch.chunks_of(geometry, 16, itemsize, 2, 2)
                walk = chunks.channels * geometry.positions // chunks.walk
                pool = geometry.positions // chunks.positions
                for steps in (walk, pool):
                    span = max(sums.TERMS.value, -(-steps // sums.MOST.value))
                    assert max(span, steps / span) <= 512, (last, channels, itemsize)
    assert 2**20 // launch.PARAMETER_SAMPLES <= 16 * 512**2


def test_levels_of_mix_suffice():
    """No level takes over 512 terms, for samples of 2^33 elements of up to 4 paths."""
    for channels in (1, 3, 64, 256):
        for itemsize in (2, 4, 8):
            size = channels * 2**25
            geometry = Geometry(True, 1, size, 1)
            if size >= mix_tiles.FLAT_ELEMENTS:
                geometry = Geometry(False, 1, channels, 2**25)
            rows, cols = mix_launch.mix_backward_tile(geometry, itemsize, 4, False)[:2]
            steps = size / (rows * cols) / (mix_backward._VALUES // mix_backward._SUMS)
            span = max(sums.TERMS.value, -(-steps // sums.MOST.value))
            assert max(span, steps / span) <= 512, (channels, itemsize)


def test_a_walk_of_a_span_is_one_accumulator():
    for channels_last in (False, True):
        for positions in (2, 49, 1000, 1024, 3136, 2**25):
            for itemsize, paths in itertools.product((2, 4, 8), (1, 2, 4, 8)):
                for unit in (1, 4, 16):
                    geometry = Geometry(channels_last, 1, 64, positions)
                    tile = mix_launch.mix_channel_tile(geometry, itemsize, paths, paths, unit)
                    step = tile.lines if channels_last else tile.width
                    assert tile.span % step == 0 and tile.span // step <= launch.SUM_TERMS


# Added one after another, 2^12 of these are off by 1e-4 of their sum, as all errors point one way.
BIASED = 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_mean_of_equal_values_is_that_value(layout):
    """Equal values are the worst case of a serial float32 sum; the bound here is certain."""
    channels, spatial = (8, (1024, 1024)) if layout == "channels_last" else (1, (4096, 2048))
    case = Case("", "", batch=1, channels=channels, spatial=spatial, inputs=1, layout=layout)
    (x,), weights = calls.arguments("gate", case)
    with torch.no_grad():
        x.fill_(BIASED)
    _, pooled = torch.ops.mpkernels.gate([x], list(weights), 0)
    expected = exact(x[0, 0].flatten()[:1])
    # A lane adds 128 terms, then 32 such sums, then up to 256 rows of a tile: far below 4,096.
    terms = sums.TERMS.value + 32 + 256
    assert ((exact(pooled) - expected).abs() <= gamma(terms, F32) * expected).all()


def assert_typical(name, actual, expected, depth):
    """The error's root mean square is at most 16 sqrt(depth) roundings of the values' own."""
    error = (exact(actual) - expected).pow(2).mean().sqrt()
    bound = 16 * F32 * depth**0.5 * expected.pow(2).mean().sqrt()
    assert bound < 1e-4 * expected.pow(2).mean().sqrt() or not expected.any()
    assert error <= bound, f"{name}: {error:.3g} RMS error, at most {bound:.3g}"


def with_means(paths):
    """Shifts each channel, so that means and sums of products stand out from the noise."""
    with torch.no_grad():
        for x in paths:
            x.add_(torch.randn(1, x.shape[1], *[1] * (x.dim() - 2)).to(x))
    return paths


def step(functions, name, paths, rest, grads):
    """Outputs and all gradients."""
    outputs = calls.call(name, functions, paths, rest)
    leaves = calls.leaves(paths, rest)
    ys, gs = zip(*((y, g.to(y)) for y, g in zip(outputs, grads) if g is not None))
    return [*outputs, *torch.autograd.grad(ys, leaves, gs, allow_unused=True)]


def check_typical(name, case, gates_only=False):
    """Outputs and gradients against float64."""
    paths, rest = calls.arguments(name, case)
    paths = with_means(paths)
    with torch.no_grad():
        outputs = calls.call(name, functional, paths, rest)
    grads = with_means([torch.randn_like(y) if y.dim() > 3 else torch.randn_like(y)[..., None]
                        for y in outputs])  # fmt: skip
    grads = [g.view_as(y) for g, y in zip(grads, outputs)]
    if gates_only:
        grads = [*[None] * (len(grads) - 1), grads[-1]]
    wide = [[None if t is None else exact(t).requires_grad_(t.requires_grad) for t in ts]
            for ts in (paths, rest)]  # fmt: skip
    actual = step(functional, name, paths, rest, grads)
    expected = step(eager, name, *wide, [None if g is None else exact(g) for g in grads])
    for index, (a, e) in enumerate(zip(actual, expected)):
        assert_typical(f"{name} {index}", a, e.detach(), DEPTH)


# 130 steps of 512 positions, as rows of odd length are taken four at a time.
LONG = Case("long", "", batch=1, channels=3, spatial=(257, 257), outputs=2)


@WALKED
@pytest.mark.parametrize("gates_only", [False, True], ids=["all", "gates_only"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cross_connect_of_a_large_map(layout, gates_only, walked):
    """With a gradient of the gates alone, only the path through a map's mean is checked."""
    check_typical("cross_connect", replace(LONG, layout=layout), gates_only)


@pytest.mark.parametrize("name", ["gate", "mix", "mix_by_channel", "combine"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_operators_of_a_large_map(layout, name):
    check_typical(name, replace(LONG, layout=layout))


def test_parts_of_a_large_batch():
    """The parts are equal values, and more than an accumulator takes."""
    parts = torch.full((2**16, 3), BIASED, device=where.DEVICE)
    grad = torch.empty(3, device=where.DEVICE)
    gate_parameter_grads.add_parts([parts], [grad])
    expected = exact(parts).sum(0)
    # A lane adds 128 steps of 16 parts, then 32 such sums: far below 4,096.
    assert ((exact(grad) - expected).abs() <= gamma(128 + 16 + 32, F32) * expected).all()
