"""The CPU benchmarks: turns, verdicts, comparison and report; every suite runs once."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from proof.where import INTERPRETED

if INTERPRETED:
    pytest.skip("runs in the other process", allow_module_level=True)

from benchmarks import __main__ as command
from benchmarks import baselines, compare, machine, measure, plots, report
from benchmarks.cases import BARS, Case, network_cases, picked
from benchmarks.cpu import routers as cpu_routers

TINY = Case(3, 13, (5, 7), 2, 3)


class FakeClock:
    """Records the order of turns; a step's turn takes the time that the step returns."""

    shortest = 100.0

    def __init__(self):
        self.turns, self.settled = [], 0

    def turn(self, step, calls):
        self.turns.append((step.__name__, calls))
        duration = step()
        return lambda: duration

    def settle(self):
        self.settled += 1


def test_contenders_take_turns_and_every_other_round_goes_backwards():
    ticks = itertools.count(1)

    def quick():
        return 30.0

    def slow():
        return 1000.0 + next(ticks)

    clock = FakeClock()
    times = measure.contest({"quick": quick, "slow": slow}, 3, clock)
    calls = [("quick", 4), ("slow", 1)]  # as many as fill the shortest turn
    assert clock.turns[2:] == calls + calls[::-1] + calls
    assert clock.settled == 2 + 3
    assert times["quick"] == [30.0] * 3
    assert times["slow"] == sorted(times["slow"]) and len(times["slow"]) == 3


def test_a_turn_of_the_wall_clock_is_long_enough():
    calls = []
    times = measure.contest({"step": lambda: calls.append(1)}, 2)
    assert len(calls) >= measure.WARM_UP + 1 + 2 * 100
    assert 0 < times["step"][0] < measure.WallClock.shortest


def test_spread():
    assert measure.spread([5.0, 1.0, 2.0, 3.0, 4.0, 6.0]) == {
        "low": 2.0, "median": 3.5, "high": 5.0
    }  # fmt: skip
    assert measure.spread([2.0, 2.0]) == {"low": 2.0, "median": 2.0, "high": 2.0}


def around(median, share=0.1):
    return {"low": (1 - share) * median, "median": median, "high": (1 + share) * median}


def row(case="case", part="forward", unit="us", threads=1, **values):
    return {
        "case": case, "batch": 8, "inputs": 2, "threads": threads, "part": part, "unit": unit,
        "values": values,
    }  # fmt: skip


def test_ratio_is_bold_where_intervals_are_apart():
    measured = row(fused=around(10.0), loops=around(20.0), stacked=around(11.0), compile="wrong")
    cells = [report.ratio(measured, name) for name in ("loops", "stacked", "compile", "copy")]
    assert cells == ["**2.00**", "1.10", "wrong", ""]
    assert report.ratio(row(fused="wrong", loops=around(2.0)), "loops") == "no ratio"


def test_a_wrong_contender_gets_no_time(monkeypatch):
    def broken(*_):
        raise RuntimeError("no such kernel")

    def unlike(xs, *parameters):
        return [1.001 * y for y in baselines.loops(xs, *parameters)]

    contenders = {"loops": baselines.loops, "stacked": broken, "fused": unlike}
    monkeypatch.setattr(baselines, "routers", lambda names: contenders)
    for measured in cpu_routers.case_rows(TINY, 1, ["loops", "stacked", "fused", "operator"], 2):
        values = measured["values"]
        assert values["stacked"] == "failed" and values["fused"] == "wrong"
        assert values["loops"]["low"] > 0
        assert "operator" not in values  # it is timed only if fused is right


@pytest.mark.parametrize(
    "old, new, verdict",
    [
        (around(10.0), around(20.0), "slower"),
        (around(20.0), around(10.0), "faster"),
        (around(10.0), around(11.0), "same"),  # the intervals overlap
        (around(10.0, 0.001), around(10.4, 0.001), "same"),  # apart, but by less than 5 %
        (around(10.0, 0.001), around(10.6, 0.001), "slower"),
        (around(10.0), "wrong", "wrong"),
        ("wrong", "wrong", "same"),
        ("wrong", around(10.0), "mended"),
        (around(0.0), around(10.0), "same"),
    ],
)
def test_verdicts_of_a_comparison(old, new, verdict):
    assert compare.verdict(old, new) == verdict


def test_a_comparison_fails_where_ours_became_slower(tmp_path, capsys):
    def file(name, *rows):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"rows": rows}))
        return str(path)

    old = file("old", row(fused=around(10.0), loops=around(30.0)), row("gone", fused=around(1.0)))
    slower = file("slower", row(fused=around(20.0), loops=around(30.0)))
    faster = file("faster", row(fused=around(5.0), loops=around(90.0)))
    assert compare.main([old, slower]) == 1
    assert "slower  2.00 [1.64, 2.44]" in capsys.readouterr().out
    assert compare.main([old, faster]) == 0
    assert (
        "new / old 3.00 at the median" in capsys.readouterr().out
    )  # the drift of PyTorch's contenders
    assert compare.main([old, file("other", row("other", fused=around(1.0)))]) == 1


HEAD = {
    "processor": "P", "cores": 2, "instruction_set": "avx2", "caches": {"L2": "1M", "L1d": "32K"},
    "torch": "2", "python": "3", "allocator": {"libc": "glibc"}, "load": {"at_start": 0.1},
    "commit": "c0ffee", "rounds": 3, "command": "python -m benchmarks",
}  # fmt: skip


def test_the_report_shows_what_was_measured(tmp_path):
    bar, speed = str(BARS[0]), {"fused": around(10.0), "loops": around(25.0), "compile": "failed"}
    both = [row(bar, part, threads=2, **speed) for part in cpu_routers.PARTS]
    routers = {**HEAD, "rows": [*both, row("another", **speed)]}
    steps = {**HEAD, "rows": [
        row("net fp32", "step", threads=2, eager=around(1000.0), fused=around(800.0)),
        row("net fp32", "routers alone", threads=2, eager=around(300.0), fused=around(80.0)),
    ]}  # fmt: skip
    block = report.readme_block({"routers": routers, "steps": steps})
    assert "| router of 2 or 4 paths, forward | 2.50 |  |" in block
    assert "| training step, net fp32 | 1.25 |  |" in block
    assert "5 to 8" not in block and "P, 2 cores, avx2; torch 2" in block
    page = report.document({"routers": routers, "steps": steps})
    assert "| net fp32 | 2 | 8000 |  | 10000 | 30.0% | 10.0% |" in page
    assert "| another | 1 | forward | 10 [9, 11] us | **2.50** | failed |" in page
    assert report.NOTHING in report.document({}) and report.readme_block({}) == report.NOTHING
    plots.speedups(routers, tmp_path / "speedups.svg")
    plots.scaling({**HEAD, "rows": [{"axis": "paths", **both[1]}]}, tmp_path / "scaling.svg")
    assert all("<svg" in path.read_text() for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "suite, text, contenders, rows",
    [
        ("routers", "B=1 [32] 2->2", ("loops", "stacked", "fused", "operator", "copy"), 2),
        ("combine", "[128, 8, 8] 2->2 fp32 NCHW", ("loops", "stacked", "fused", "copy"), 2),
        ("overhead", "B=1 [32]", ("loops", "fused"), 4),
        ("steps", "B=8 fp32 NCHW", ("eager", "fused"), 2),
        ("steps", "resnet18_2_cc B=1 fp32 NCHW", ("eager", "fused"), 2),
        ("memory", "B=8 fp32 NCHW", ("eager", "fused"), 2),
        ("scaling", "B=1 [64", ("loops", "fused", "copy"), 2),
    ],
)
def test_every_suite_runs(suite, text, contenders, rows, tmp_path):
    options = ["--suite", suite, "--filter", text, "--contenders", *contenders]
    sizes = ["--rounds", "2", "--threads", "1", "--out", str(tmp_path)]
    assert command.main([*options, *sizes]) == 0
    result = json.loads((tmp_path / f"cpu_{suite}.json").read_text())
    assert len(result["rows"]) == rows and result["commit"] and result["caches"] is not None
    for measured in result["rows"]:
        missing = {"copy"} if measured["part"] == "routers alone" else set()
        assert set(measured["values"]) == set(contenders) - missing
        assert all(value["median"] for value in measured["values"].values())
    assert text in report.document({suite: result})


def test_a_run_of_some_cases_overwrites_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    some = ["--suite", "scaling", "--rounds", "2", "--threads", "1", "--contenders", "copy"]
    assert command.main([*some, "--filter", "B=1 [64"]) == 0
    assert "B=1 [64, 8, 8]" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        command.main(["--rounds", "1"])


def test_the_command_starts_again_with_one_allocator_for_all(monkeypatch):
    environments = []
    monkeypatch.setattr(os, "execve", lambda path, words, variables: environments.append(variables))
    for name in machine.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    machine.with_allocator()
    assert environments[0]["MALLOC_MMAP_MAX_"] == "0" and environments[0]["MALLOC_TOP_PAD_"] == "1"
    for name, value in environments.pop().items():
        monkeypatch.setenv(name, value)
    machine.with_allocator()
    assert environments == []


def test_help():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], cwd=report.ROOT, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0 and "--filter" in result.stdout, result.stderr


def test_cases_are_distinct_and_the_named_set_is_short():
    cases = network_cases("fp32")
    assert len(set(cases)) == len(cases) and len({str(case) for case in cases}) == len(cases)
    assert picked(cases + BARS, "bars")[-len(BARS) :] == BARS and len(BARS) < 30
    assert picked(cases, "[2048, 7, 7] 2->2") == [
        case for case in cases if case.channels == 2048 and case.spatial
    ]  # fmt: skip
