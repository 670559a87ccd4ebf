"""Tuned launches: what is tried and kept, and that tables are read and never half written."""

import contextlib
import importlib
import json

import pytest
import torch

import mpkernels as mpk
from mpkernels.ops.chip import ASSUMED as CHIP
from mpkernels.ops.chip import h100
from mpkernels.ops.layout import Geometry
from mpkernels.ops.onchip import on_chip
from proof.where import INTERPRETED

pytest.importorskip("triton", reason="triton is not installed")
from mpkernels.triton import tuned
from mpkernels.triton.launch import ASSUMED, Resident, cross_connect_launch

GEOMETRY, SIZES = Geometry(False, 128, 64, 64), (2, 2, 16, 4)
GPU = torch.device("cuda", 0)
H100 = ASSUMED._replace(chip=CHIP)


@pytest.fixture
def table(monkeypatch, tmp_path):
    """The path of the table of a fake card, in a fresh cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A Card (80 GB)")
    monkeypatch.setattr(tuned, "card_of", lambda device: ASSUMED)
    tuned._read.cache_clear(), tuned.launch_for.cache_clear()
    yield tmp_path / "mpkernels" / "a_card_80_gb_.json"
    tuned._read.cache_clear(), tuned.launch_for.cache_clear()


def rule_launch():
    return cross_connect_launch(GEOMETRY, *SIZES, ASSUMED)


def test_candidates_differ_and_start_with_the_rule():
    candidates = list(tuned.candidates(rule_launch(), GEOMETRY, *SIZES, ASSUMED, False))
    assert candidates[0] == rule_launch() and len(set(candidates)) == len(candidates) > 5
    assert {launch.method for launch in candidates} == {"resident", "streamed", "split"}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_shared_memory_is_tried_where_the_card_has_kernels_for_it(backward):
    large, sizes = Geometry(False, 32, 64, 3136), (2, 3, 16, 2)
    walked = cross_connect_launch(large, *sizes, H100, backward)
    shared = on_chip(large, *sizes, CHIP, backward)
    candidates = list(tuned.candidates(walked, large, *sizes, H100, backward))
    assert candidates[0] == walked and candidates.count(shared) == 1 and shared.method == "cluster"
    without = list(tuned.candidates(walked, large, *sizes, ASSUMED, backward))
    assert [launch for launch in candidates if launch != shared] == without
    vast = large._replace(channels=2048)
    candidates = tuned.candidates(walked, vast, *sizes, H100, backward)
    assert {launch.method for launch in candidates} == {"split", "streamed"}  # no cluster keeps it


def key(method="resident", geometry=GEOMETRY):
    return tuned.key_of(geometry, *SIZES, False, method)


def test_only_a_clear_gain_replaces_the_rule():
    candidates = list(tuned.candidates(rule_launch(), GEOMETRY, *SIZES, ASSUMED, False))
    assert tuned.fastest({t: 1.0 if t == rule_launch() else 0.97 for t in candidates}) == (
        rule_launch(),
        1.0,
    )
    best, share = tuned.fastest({t: 0.5 if t == candidates[3] else 1.0 for t in candidates})
    assert (best, share) == (candidates[3], 0.5)


def test_a_table_is_read_and_grows(table):
    assert tuned.launch_for(GEOMETRY, *SIZES, GPU) == rule_launch()
    other = Resident(64, 64, 4)
    assert tuned.write(GPU, {key(): tuned.describe(other)}) == table
    assert tuned.launch_for(GEOMETRY, *SIZES, GPU) == other
    assert tuned.launch_for(GEOMETRY._replace(batch=3), *SIZES, GPU) == other
    assert tuned.launch_for(GEOMETRY, *SIZES, GPU, True) == rule_launch()
    assert tuned.launch_for(GEOMETRY, *SIZES, torch.device("cpu")) == rule_launch()
    tuned.write(GPU, {"another": ["split", 3]})
    assert set(json.loads(table.read_text())) == {key(), "another"}
    assert [path.name for path in table.parent.iterdir()] == [table.name]
    tuned.write(GPU, {key(): None})
    assert tuned.launch_for(GEOMETRY, *SIZES, GPU) == rule_launch()


def test_a_launch_serves_the_batches_for_which_the_rule_takes_the_same_method(table):
    large = Geometry(False, 256, 16, 1024)
    few, sizes = large._replace(batch=8), (4, 4, 16, 4)
    before = tuned.launch_for(few, *sizes, GPU)
    streamed = cross_connect_launch(large, *sizes, ASSUMED)
    assert (streamed.method, before.method) == ("streamed", "split")
    tuned_launch = streamed._replace(samples=2 * ASSUMED.multiprocessors)
    large_key = tuned.key_of(large, *sizes, False, "streamed")
    tuned.write(GPU, {large_key: tuned.describe(tuned_launch)})
    assert tuned.launch_for(large, *sizes, GPU) == tuned_launch
    assert tuned.launch_for(large._replace(batch=2048), *sizes, GPU) == tuned_launch
    assert tuned.launch_for(few, *sizes, GPU) == before


def test_a_sample_is_kept_in_shared_memory_for_every_batch_or_for_none(table, monkeypatch):
    """The two walks agree to the last bit; shared memory sums in another order."""
    few, sizes = Geometry(False, 8, 16, 1024), (4, 4, 16, 4)
    monkeypatch.setattr(tuned, "card_of", lambda device: H100)
    batches = [few._replace(batch=batch) for batch in (1, 8, 256, 2048)]
    rules = {geometry: cross_connect_launch(geometry, *sizes, H100) for geometry in batches}
    shared, other = on_chip(few, *sizes, CHIP), rules[few]._replace(samples=2 * rules[few].samples)
    assert {launch.method for launch in rules.values()} == {"streamed", "split"}

    def tune(geometry, best):
        tuned.write(GPU, tuned.entries(best, rules[geometry], geometry, *sizes, False))
        return {tuned.launch_for(geometry, *sizes, GPU) for geometry in batches}

    for geometry in (batches[1], batches[2]):
        assert tune(geometry, shared) == {shared}
        assert tune(geometry, rules[geometry]) == set(rules.values())
    assert tune(few, shared) == {shared} and other in tune(few, other)
    assert shared not in tune(batches[2], rules[batches[2]])
    as_split = tuned.key_of(few, *sizes, False, "split")
    assert json.loads(table.read_text()) == {as_split: tuned.describe(other)}
    tuned.write(GPU, {as_split: tuned.describe(shared)})  # as if edited by hand
    with pytest.warns(RuntimeWarning, match="cannot run"):
        assert tuned.launch_for(few, *sizes, GPU) == rules[few]


def test_shared_memory_is_not_used_where_its_kernels_are_missing(table):
    few, sizes = Geometry(False, 8, 16, 1024), (4, 4, 16, 4)
    walked, shared = cross_connect_launch(few, *sizes, ASSUMED), on_chip(few, *sizes, CHIP)
    tuned.write(GPU, tuned.entries(shared, walked, few, *sizes, False))
    with pytest.warns(RuntimeWarning, match="cannot run; tune again"):
        assert tuned.launch_for(few, *sizes, GPU) == walked


def test_a_cluster_is_taken_on_the_cards_that_run_it(table, monkeypatch):
    """Two cards have one name, hence one table: the parts that were left out of them differ."""
    large, sizes, other = Geometry(False, 32, 256, 3136), (2, 2, 16, 2), torch.device("cuda", 1)
    small_parts = ASSUMED._replace(chip=h100((14,) * 9))
    monkeypatch.setattr(tuned, "card_of", lambda device: small_parts if device == other else H100)
    walked, shared = cross_connect_launch(large, *sizes, H100), on_chip(large, *sizes, CHIP)
    assert shared.cluster == 16
    tuned.write(GPU, tuned.entries(shared, walked, large, *sizes, False))
    for _ in range(2):
        assert tuned.launch_for(large, *sizes, GPU) == shared
        tuned.launch_for.cache_clear()
        with pytest.warns(
            RuntimeWarning, match=r"\['cluster', 16\], which this card .* cannot run"
        ):
            assert tuned.launch_for(large, *sizes, other) == walked
    candidates = tuned.candidates(walked, large, *sizes, small_parts, False)
    assert {launch.method for launch in candidates} == {"split", "streamed"}


def test_a_table_of_another_version_is_no_danger(table):
    tuned.write(GPU, {key(): ["clever", 9]})
    with pytest.warns(RuntimeWarning, match=r"clever.*cannot run; tune again"):
        assert tuned.launch_for(GEOMETRY, *SIZES, GPU) == rule_launch()


@pytest.mark.parametrize("text", ['{"a": [', "[]", "\udcff"], ids=["cut off", "list", "bytes"])
def test_what_is_no_table_is_named_once_and_kept(table, text):
    table.parent.mkdir(parents=True)
    table.write_text(text, errors="surrogateescape")
    with pytest.warns(RuntimeWarning, match=rf"{table}: not a table") as warnings:
        for geometry in (GEOMETRY, GEOMETRY._replace(batch=3)):
            assert tuned.launch_for(geometry, *SIZES, GPU).method == "resident"
    assert len(warnings) == 1
    with pytest.warns(RuntimeWarning, match=r"it is a_card_80_gb_\.unreadable now"):
        tuned.write(GPU, {key(): ["split", 3]})
    assert json.loads(table.read_text()) == {key(): ["split", 3]}
    assert table.with_suffix(".unreadable").read_bytes() == text.encode(errors="surrogateescape")


def test_a_folder_instead_of_a_table(table):
    table.mkdir(parents=True)
    with pytest.warns(RuntimeWarning, match="not a table"):
        assert tuned.launch_for(GEOMETRY, *SIZES, GPU) == rule_launch()


def test_nobody_needs_a_home(table, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(tuned.Path, "home", nowhere)
    assert tuned.launch_for(GEOMETRY, *SIZES, GPU) == rule_launch()
    assert tuned.table_of(GPU) == table
    tuned._read.cache_clear(), tuned.launch_for.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert tuned.launch_for(GEOMETRY, *SIZES, GPU) == rule_launch()


def test_tune_needs_a_gpu():
    with pytest.raises(RuntimeError, match="tune: needs Triton and xs on a GPU, found cpu"):
        mpk.tune(mpk.CrossConnect(4, 2, 2), [torch.randn(2, 4, 3, 3)] * 2)


class Clock:
    """A fake GPU that runs graphs: a launch takes as long as `took` says, more with every replay.

    It never sleeps: events read the time from `now`.
    """

    def __init__(self, took):
        self.took, self.now, self.order, self.capturing = took, 0.0, [], None

    def run(self, launch):
        if self.capturing is None:
            self.now += 1000  # the cost of compiling and of a call from Python
        else:
            self.capturing.append(launch)

    def install(self, monkeypatch):
        clock = self

        class Graph(list):
            def replay(self):
                clock.order.append(self[0])
                clock.now += sum(clock.took[launch] for launch in self) * (1 + len(clock.order))

        @contextlib.contextmanager
        def capture(graph, pool):
            clock.capturing = graph
            yield
            clock.capturing = None

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = clock.now

            def synchronize(self):
                pass

            def elapsed_time(self, end):
                return end.at - self.at

        for name, value in (("CUDAGraph", Graph), ("graph", capture), ("Event", Event),
                            ("graph_pool_handle", object)):  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)


def test_contenders_are_timed_in_turns_on_the_gpu_alone(monkeypatch):
    """Python's time does not count, and a card that slows down favours no contender."""
    clock = Clock({"a": 1.0, "b": 0.9, "c": 1.1})
    clock.install(monkeypatch)
    module = importlib.import_module("mpkernels.tune")
    times = module._milliseconds(["a", "b", "c"], clock.run)
    assert sorted(times, key=times.get) == ["b", "a", "c"]
    assert clock.order == ["a", "b", "c"] * (module.ROUNDS + 1)


@pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")
@pytest.mark.parametrize("gain", [0.5, 1.0])
def test_tune_measures_every_candidate_on_its_card_and_writes_gains(monkeypatch, gain):
    """Only the clock and the card are fake: the kernels run in the interpreter."""
    module = importlib.import_module("mpkernels.tune")
    from mpkernels.triton import launch

    written, maps_in_use = {}, []

    @contextlib.contextmanager
    def on_device_of(x):
        maps_in_use.append(x)
        yield
        maps_in_use.pop()

    def milliseconds(launches, run):
        assert len(launches) > 5 and len(maps_in_use) == 1
        for each in launches:
            run(each)
        return {each: gain if each.method == "split" else 1.0 for each in launches}

    monkeypatch.setattr(module, "_milliseconds", milliseconds)
    monkeypatch.setattr(launch, "on_device_of", on_device_of)
    monkeypatch.setattr(tuned, "write", lambda device, entries: written.update(entries))
    xs = [torch.randn(2, 4, 3, 3) for _ in range(2)]
    router = mpk.CrossConnect(4, 2, 2)
    shares = module._measure(xs, (router.w1, router.b1, router.w2, router.b2))
    assert shares == {"forward": gain, "backward": gain} and len(written) == 2
    assert all(name.endswith("resident") for name in written)
    assert {value and value[0] for value in written.values()} == {"split" if gain < 1 else None}
