"""cross_connect by every method, and sums by parts of the batch, whatever the shape would choose.

The kernels run in the interpreter or on a GPU.
"""

from dataclasses import replace

import pytest
import torch

from proof import where
from proof.checks import check_combine, check_cross_connect
from proof.problems import cases
from proof.problems.cases import (
    CASES,
    for_the_interpreter,
    make_grad_ys,
    make_parameters,
    make_paths,
)
from proof.where import INTERPRETED

if not INTERPRETED and where.DEVICE == "cpu":
    pytest.skip("needs TRITON_INTERPRET=1, or a GPU", allow_module_level=True)

import triton
import triton.language as tl

from mpkernels import use_backend
from mpkernels.ops.flags import mask_of
from mpkernels.ops.layout import Geometry, geometry_of
from mpkernels.triton import cross_connect as launcher
from mpkernels.triton import gate_parameter_grads, launch
from mpkernels.triton.launch_arguments import _rows
from mpkernels.triton.stages import chunk_size, elements
from mpkernels.triton.tuned import launch_for

# Cases of strides and gradients; they get channels for several chunks, the last one partial.
STRIDED = ("layout_", "gradient_", "expanded_")

# Small cases, since a walk takes the interpreter longer than a tile.
CHOSEN = [
    replace(
        case,
        batch=min(case.batch, 2),
        channels=21 if case.name.startswith(STRIDED) else case.channels,
    )
    for case in for_the_interpreter(CASES)
    if not case.name.endswith(("_large_sample", "_large_channels_last", "8_to_8"))
]


@pytest.fixture(params=["streamed", "split"])
def method(request, monkeypatch):
    """Forces a method of cross_connect and checks that it ran."""
    monkeypatch.setattr(launch, "RESIDENT_ELEMENTS", 0)
    monkeypatch.setattr(launch, "RESIDENT_UNALIGNED", 0)
    monkeypatch.setattr(launch, "CHUNK_ELEMENTS", 256)  # several chunks of small maps
    monkeypatch.setattr(launch, "BUSY_SHARE", 0 if request.param == "streamed" else 1e9)
    monkeypatch.setattr(gate_parameter_grads, "PARAMETER_SAMPLES", 1)  # several parts of the batch
    methods = set()

    def launch_of(*sizes):
        choice = launch_for(*sizes)
        methods.add(choice.method)
        return choice

    monkeypatch.setattr(launcher, "_launch_of", launch_of)
    launch_for.cache_clear()
    yield request.param
    launch_for.cache_clear()
    assert request.param in methods and methods <= {"streamed", "split"}


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_cross_connect(case, method):
    if case.name.startswith(STRIDED):
        geometry = geometry_of(make_paths(case)[0])
        paths = case.inputs, case.outputs
        assert launch.chunks_of(geometry, case.hidden, case.dtype.itemsize, *paths).count > 1
    with use_backend("triton"):
        check_cross_connect(case)


def results(case, share):
    torch.manual_seed(0)
    xs, parameters = make_paths(case), make_parameters(case)
    launch.BUSY_SHARE = share
    launch_for.cache_clear()
    gate = list(parameters.values())
    *ys, gates, pooled = launcher.cross_connect(xs, gate, 0)
    grads, kept = [*make_grad_ys(case, ys), gates], [gates, pooled]
    wanted = mask_of((True,) * (case.inputs + 4))
    results = launcher.cross_connect_backward(grads, kept, xs, gate, 0, wanted)
    return [*ys, gates, pooled, *results]


@pytest.mark.parametrize("method", ["streamed"], indirect=True)
@pytest.mark.parametrize("case", CHOSEN[:8:2] + CHOSEN[-4:], ids=str)
def test_streamed_and_split_agree_to_the_last_bit(case, method):
    """A sample's results do not depend on whether its batch is large enough to be streamed."""
    with torch.no_grad():
        for one, other in zip(results(case, 0), results(case, 1e9)):
            assert torch.equal(one, other)


@triton.jit
def _last_element_kernel(
    last, channels, positions, BLOCK: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    size = chunk_size(0, channels, positions, BLOCK, LAST, WIDE)
    for q0 in range(0, size, STEP):
        q = elements(q0, 16, WIDE)
        tl.store(last, tl.max(q, 0))


@pytest.mark.parametrize(
    ("channels", "positions", "block", "channels_last"),
    [(16, 2**27, 16, True), (16, 2**28 + 16, 8, True), (16, 2**27 + 1, 16, False)],
)
def test_a_chunk_of_more_elements_than_32_bits_count(channels, positions, block, channels_last):
    """Only the size and the walk are checked, without the memory of maps this large."""
    geometry = Geometry(channels_last, 1, channels, positions)
    wide = _rows(geometry, (geometry.cols,)).wide
    assert wide and positions * block >= 2**31
    last, step = torch.zeros(1, dtype=torch.int64, device=where.DEVICE), 2**26
    _last_element_kernel[(1,)](last, channels, positions, block, channels_last, wide, step)
    assert last.item() == (positions * block - 1) // step * step + 15


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_combine_by_parts_of_the_batch(layout, monkeypatch):
    monkeypatch.setattr(launch, "PARAMETER_SAMPLES", 2)
    with use_backend("triton"):
        check_combine(cases.Case("parts", "", batch=5, layout=layout))
