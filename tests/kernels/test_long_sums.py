"""Long sums in Triton's kernels: every level is taken, and what is left of float32's precision.

Interpreted, or on a GPU. A sum in levels of at most 512 terms is off by at most `depth` roundings
of its terms' magnitudes, `depth` being the levels' terms, where a serial one is off by its length.
Errors that do not all point one way come to about the root of that: the statistical bound.
"""

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
    sums,
)
from mpkernels.triton.tuned import launch_for

LAYOUTS = ["nchw", "channels_last"]
# Two levels of a loop, and the 2,048 values of a tile, which NumPy may add one by one.
DEPTH = 2 * sums.MOST.value + launch.WALK_ELEMENTS
F32 = ROUNDOFF[torch.float32]


@pytest.fixture(autouse=True)
def triton_backend():
    with use_backend("triton"):
        yield


@pytest.fixture
def walked(request, monkeypatch):
    """Samples are walked by the method that a test names."""
    monkeypatch.setattr(launch, "RESIDENT_ELEMENTS", 0)
    monkeypatch.setattr(launch, "RESIDENT_UNALIGNED", 0)
    monkeypatch.setattr(launch, "BUSY_SHARE", 0 if request.param == "streamed" else 1e9)
    launch_for.cache_clear()
    yield request.param
    launch_for.cache_clear()


WALKED = pytest.mark.parametrize("walked", ["streamed", "split"], indirect=True)


@pytest.fixture
def short(monkeypatch):
    """Accumulators of two terms, up to four where a sum is long, and small tiles."""
    if not INTERPRETED:
        pytest.skip("compiled kernels keep their constants")
    monkeypatch.setattr(launch, "SUM_TERMS", 2)
    monkeypatch.setattr(sums, "TERMS", tl.constexpr(2))
    monkeypatch.setattr(sums, "MOST", tl.constexpr(4))
    for name in ("WALK_ELEMENTS", "WALK_WEIGHTS", "CHUNK_ELEMENTS"):
        monkeypatch.setattr(launch, name, 32)
    monkeypatch.setattr(launch, "RESIDENT_WEIGHTS", 0)
    monkeypatch.setattr(mix, "tile_of", lambda *_: launch.Tile(4, 8, 4))
    monkeypatch.setattr(combine, "combine_tile", lambda *_: launch.Tile(4, 8, 4))
    monkeypatch.setattr(combine_parameter_grads, "_VALUES", 64)
    monkeypatch.setattr(combine_parameter_grads, "_GATES", 16)
    # Parts of one sample: of 37 samples, steps of 16 are more than an accumulator takes.
    monkeypatch.setattr(launch, "PARAMETER_SAMPLES", 1)
    monkeypatch.setattr(gate_parameter_grads, "PARAMETER_SAMPLES", 1)
    launch_for.cache_clear()
    yield
    launch_for.cache_clear()


# 11 positions are one step, 255 several of the longest spans, the last one in part.
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
    """None takes more than 512 terms: 2^25 positions of any format, batches of 2^20."""
    for last in (False, True):
        for channels in (1, 3, 16, 64, 512, 4096):
            for itemsize in (2, 4, 8):
                geometry = Geometry(last, 1, channels, 2**25)
                chunks = launch.chunks_of(geometry, 16, itemsize, 4)
                walk = chunks.channels * geometry.positions // chunks.walk
                pool = geometry.positions // chunks.positions
                tile = launch.tile_of(geometry)
                along = geometry.positions // (tile.rows if last else tile.cols)
                for steps in (walk, pool, along):
                    span = max(sums.TERMS.value, -(-steps // sums.MOST.value))
                    assert max(span, steps / span) <= 512, (last, channels, itemsize)
    assert 2**20 // launch.PARAMETER_SAMPLES <= 16 * 512**2


# Added one by one, 2^12 of them are off by 1e-4 of their sum: the errors all point one way.
BIASED = 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_mean_of_equal_values_is_that_value(layout):
    """What a serial sum of float32 loses most; certain bound."""
    channels, spatial = (8, (1024, 1024)) if layout == "channels_last" else (1, (4096, 2048))
    case = Case("", "", batch=1, channels=channels, spatial=spatial, inputs=1, layout=layout)
    (x,), weights = calls.arguments("gate", case)
    with torch.no_grad():
        x.fill_(BIASED)
    _, pooled = torch.ops.mpkernels.gate([x], *weights)
    wanted = exact(x[0, 0].flatten()[:1])
    # A lane takes 128 terms, their sums are 32, and a tile of 256 rows or of one: not 4,096 terms.
    terms = sums.TERMS.value + 32 + 256
    assert ((exact(pooled) - wanted).abs() <= gamma(terms, F32) * wanted).all()


def assert_typical(name, found, wanted, depth):
    """Root mean square error within 16 roots of `depth` roundings of the root mean square."""
    error = (exact(found) - wanted).pow(2).mean().sqrt()
    bound = 16 * F32 * depth**0.5 * wanted.pow(2).mean().sqrt()
    assert bound < 1e-4 * wanted.pow(2).mean().sqrt() or not wanted.any()
    assert error <= bound, f"{name}: {error:.3g} RMS error, at most {bound:.3g}"


def with_means(paths):
    """Maps whose means and whose products' sums stand out of their noise, channel by channel."""
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
    found = step(functional, name, paths, rest, grads)
    wanted = step(eager, name, *wide, [None if g is None else exact(g) for g in grads])
    for at, (f, w) in enumerate(zip(found, wanted)):
        assert_typical(f"{name} {at}", f, w.detach(), DEPTH)


# 130 steps of 512 positions: rows of an odd length are taken four at a time.
LONG = Case("long", "", batch=1, channels=3, spatial=(257, 257), outputs=2)


@WALKED
@pytest.mark.parametrize("gates_only", [False, True], ids=["all", "gates_only"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cross_connect_of_a_large_map(layout, gates_only, walked):
    """The gradient of the gates alone is what reaches a map through its mean."""
    check_typical("cross_connect", replace(LONG, layout=layout), gates_only)


@pytest.mark.parametrize("name", ["gate", "mix", "mix_by_channel", "combine"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_operators_of_a_large_map(layout, name):
    check_typical(name, replace(LONG, layout=layout))


def test_parts_of_a_large_batch():
    """More than an accumulator takes, each the same."""
    parts = torch.full((2**16, 3), BIASED, device=where.DEVICE)
    grad = torch.empty(3, device=where.DEVICE)
    gate_parameter_grads.add_parts([parts], [grad])
    wanted = exact(parts).sum(0)
    # A lane takes 128 steps of 16 parts, and 32 such sums follow: not 4,096.
    assert ((exact(grad) - wanted).abs() <= gamma(128 + 16 + 32, F32) * wanted).all()
