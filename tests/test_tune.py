"""Tuned launches: what is tried, what is kept, and that a table is read and never half written."""

import importlib
import json

import pytest
import torch
from conftest import INTERPRETED

import mpkernels as mpk
from mpkernels.ops.layout import Geometry

pytest.importorskip("triton", reason="triton is not installed")
from mpkernels.triton import tuned
from mpkernels.triton.launch import ASSUMED, Resident, Walk, cross_connect_launch

GEOMETRY, SIZES = Geometry(False, 128, 64, 64), (2, 2, 16, 4)
GPU = torch.device("cuda", 0)


@pytest.fixture
def table(monkeypatch, tmp_path):
    """A card whose cache folder is a new one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A Card (80 GB)")
    monkeypatch.setattr(tuned, "card_of", lambda device: ASSUMED)
    tuned._read.cache_clear(), tuned.launch_for.cache_clear()
    yield tmp_path / "mpkernels" / "a_card_80_gb_.json"
    tuned._read.cache_clear(), tuned.launch_for.cache_clear()


def ruled():
    return cross_connect_launch(GEOMETRY, *SIZES, ASSUMED)


def test_candidates_differ_and_start_with_the_rule():
    found = list(tuned.candidates(ruled(), GEOMETRY, *SIZES, ASSUMED))
    assert found[0] == ruled() and len(set(found)) == len(found) > 5
    assert {launch.method for launch in found} == {"resident", "streamed", "split"}


def test_only_a_clear_gain_replaces_the_rule():
    tried = list(tuned.candidates(ruled(), GEOMETRY, *SIZES, ASSUMED))
    assert tuned.fastest(iter(tried), lambda t: 1.0 if t == ruled() else 0.97) == (ruled(), 1.0)
    best, share = tuned.fastest(iter(tried), lambda t: 0.5 if t == tried[3] else 1.0)
    assert (best, share) == (tried[3], 0.5)


def test_a_table_is_read_and_grows(table):
    assert tuned.launch_for(GEOMETRY, *SIZES, GPU) == ruled()
    other = Resident(1, 64, 64, 8)
    key = tuned.key_of(GEOMETRY, *SIZES, False)
    assert tuned.write(GPU, {key: tuned.describe(other)}) == table
    assert tuned.launch_for(GEOMETRY, *SIZES, GPU) == other
    assert tuned.launch_for(GEOMETRY._replace(batch=3), *SIZES, GPU) == other
    assert tuned.launch_for(GEOMETRY, *SIZES, GPU, True) == ruled()
    assert tuned.launch_for(GEOMETRY, *SIZES, torch.device("cpu")) == ruled()
    tuned.write(GPU, {"another": ["split", 3]})
    assert set(json.loads(table.read_text())) == {key, "another"}
    assert [path.name for path in table.parent.iterdir()] == [table.name]


def test_a_table_of_another_version_is_no_danger(table):
    tuned.write(GPU, {tuned.key_of(GEOMETRY, *SIZES, False): ["clever", 9]})
    assert tuned.launch_for(GEOMETRY, *SIZES, GPU) == ruled()


def test_tune_needs_a_gpu():
    with pytest.raises(RuntimeError, match="tune: needs Triton and xs on a GPU, found cpu"):
        mpk.tune(mpk.CrossConnect(4, 2, 2), [torch.randn(2, 4, 3, 3)] * 2)


@pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")
def test_tune_measures_every_candidate_and_keeps_the_fastest(monkeypatch):
    """All but the clock and the card is real: the kernels run in the interpreter."""
    module = importlib.import_module("mpkernels.tune")
    from mpkernels.triton import cross_connect as launcher

    taken, written = [], {}

    def median(run):
        launch = launcher._launch_of()
        run()
        taken.append(launch)
        return 0.5 if isinstance(launch, Walk) and launch.method == "split" else 1.0

    monkeypatch.setattr(module, "_median", median)
    monkeypatch.setattr(tuned, "write", lambda device, found: written.update(found))
    xs = [torch.randn(2, 4, 3, 3) for _ in range(2)]
    router = mpk.CrossConnect(4, 2, 2)
    with mpk.use_backend("triton"):
        shares = module._measure(xs, (router.w1, router.b1, router.w2, router.b2))
    assert shares == {"forward": 0.5, "backward": 0.5} and len(taken) > 10
    assert len(written) == 2 and {value[0] for value in written.values()} == {"split"}
