"""cross_connect by every method, whatever the shape would choose; interpreted, or on a GPU."""

import cases
import pytest
import torch
from cases import CASES, make_grad_ys, make_parameters, make_paths
from conftest import INTERPRETED
from test_operators import test_cross_connect as check_cross_connect

if not INTERPRETED and cases.DEVICE == "cpu":
    pytest.skip("needs TRITON_INTERPRET=1, or a GPU", allow_module_level=True)

from mpkernels import use_backend
from mpkernels.triton import cross_connect as launcher
from mpkernels.triton import launch
from mpkernels.triton.tuned import launch_for

# Every kind of case once: a walk costs the interpreter more than a tile.
CHOSEN = [
    case
    for case in CASES
    if not case.name.endswith(("_large_sample", "_large_channels_last"))
    and (
        not case.name[0].isdigit()
        or case.name in ("1_to_1", "1_to_3", "3_to_1", "4_to_4", "5_to_2")
    )
]


@pytest.fixture(params=["streamed", "split"])
def method(request, monkeypatch):
    """Forces one method."""
    monkeypatch.setattr(launch, "RESIDENT_ELEMENTS", 0)
    monkeypatch.setattr(launch, "CHUNK_ELEMENTS", 256)  # several chunks of small maps
    monkeypatch.setattr(launch, "BUSY_SHARE", 0 if request.param == "streamed" else 1e9)
    launch_for.cache_clear()
    yield request.param
    launch_for.cache_clear()


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_cross_connect(case, method):
    with use_backend("triton"):
        check_cross_connect(case, "triton")


def results(case, share):
    torch.manual_seed(0)
    xs, parameters = make_paths(case), make_parameters(case)
    launch.BUSY_SHARE = share
    launch_for.cache_clear()
    ys, gates, pooled = launcher.cross_connect(xs, *parameters.values())
    grads = make_grad_ys(case, ys)
    wanted = [True] * (case.inputs + 4)
    grad_xs, grad_parameters = launcher.cross_connect_backward(
        grads, gates, xs, gates, pooled, *parameters.values(), wanted
    )
    return [*ys, gates, pooled, *grad_xs, *grad_parameters]


@pytest.mark.parametrize("case", CHOSEN[:8:2] + CHOSEN[-4:], ids=str)
def test_streamed_and_split_agree_to_the_last_bit(case, method):
    """A batch that is large enough to be streamed gives its samples what a small one gives."""
    with torch.no_grad():
        for one, other in zip(results(case, 0), results(case, 1e9)):
            assert torch.equal(one, other)
