"""The GPU report without a GPU: its rows, its processes and their failures, and its page."""

import json
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.gpu.rehearsal import planted
from proof.fresh import python
from proof.where import INTERPRETED, ROOT

if INTERPRETED:
    pytest.skip("runs in the other process", allow_module_level=True)

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import page, plan, rows, tables
from benchmarks.gpu.plan import Step
from benchmarks.gpu.steps import correctness
from benchmarks.gpu.steps.device_tests import FILES
from benchmarks.gpu.steps.drawn import Case
from benchmarks.gpu.workers import Pool

WORKER = [sys.executable, "-m", "benchmarks.gpu.rehearsal.planted"]


def run(cases, workers=1, case_seconds=60.0, seconds=300.0):
    """The rows of the planted step, by case."""
    pool = Pool([*WORKER, "planted"], {}, workers, case_seconds, time.monotonic() + seconds)
    return {row["case"]: row for row in pool.run(cases)}


def test_every_way_to_fail_costs_one_row():
    results = run(planted.OUTCOMES, workers=3, case_seconds=6.0)
    assert {case: row["state"] for case, row in results.items()} == {
        "right": "done", "wrong": "wrong", "exception": "failed", "hang": "timed out",
        "death": "failed", "broken": "failed",
    }  # fmt: skip
    assert results["wrong"]["wrong"] == "y0 is 7 bounds off"
    assert results["exception"]["why"] == "ValueError: planted in somewhere.py"
    assert "Traceback" in results["exception"]["traceback"]
    assert "in run" in results["hang"]["traceback"], "where it hung"
    assert "status 3" in results["death"]["why"]
    assert "last words" in results["death"]["traceback"]


def test_a_process_is_replaced_where_its_context_is_broken_and_kept_otherwise():
    cases = ["right 1", "exception", "right 2", "broken", "right 3", "death", "right 4"]
    results = run(cases)
    first, second, third, fourth = (results[f"right {n}"]["process"] for n in (1, 2, 3, 4))
    assert first == second and len({second, third, fourth}) == 3


def test_a_process_that_does_not_start_costs_rows_and_not_the_report():
    pool = Pool(["/no/such/program"], {}, 2, 5.0, time.monotonic() + 300)
    results = list(pool.run(["one", "two", "three"]))
    assert [row["state"] for row in results] == ["failed"] * 3
    assert all("no process" in row["why"] for row in results)


def test_what_time_was_too_short_for_is_not_reached_and_never_wrong():
    results = run(["hang 1", "right", "hang 2"], seconds=3.0)
    assert {row["state"] for row in results.values()} == {"not reached"}
    assert run(["right"], seconds=-1.0)["right"]["state"] == "not reached"


@pytest.fixture
def two_steps(monkeypatch):
    """The command, with the planted step as its only one, as a function of its options."""
    monkeypatch.setitem(sys.modules, "benchmarks.gpu.steps.planted", planted)
    monkeypatch.setattr(command, "STEPS", [Step("planted", 3, 4, 300)])
    monkeypatch.setattr(command, "FIRST", [])
    return lambda *options: command.main(list(options), WORKER)


def test_rows_are_written_at_once_and_failures_are_logged(two_steps, tmp_path, capsys):
    assert two_steps("--out", str(tmp_path)) == 1
    results = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["case"] for row in results} == set(planted.OUTCOMES)
    assert all(row["sources"] and row["torch"] == command.versions()["torch"] for row in results)
    assert "traceback" not in results[0]
    log = (tmp_path / "failures.log").read_text()
    assert log.count("==") == 5 and "Traceback" in log and "7 bounds" in log
    assert "1 done, 1 wrong, 3 failed, 1 timed out" in capsys.readouterr().out
    text = (tmp_path / "page.md").read_text()
    assert "planted: wrong: wrong: y0 is 7 bounds off" in text


def test_failed_repeats_what_is_not_settled(two_steps, tmp_path, monkeypatch):
    two_steps("--out", str(tmp_path / "one"))
    first_rows = tmp_path / "one/rows.jsonl"
    ran = []
    original = command.Report.add
    monkeypatch.setattr(
        command.Report,
        "add",
        lambda self, step, row: (ran.append(row["case"]), original(self, step, row)),
    )
    assert two_steps("--failed", str(first_rows), "--out", str(tmp_path / "two")) == 1
    assert set(ran) == set(planted.OUTCOMES) - {"right"}
    assert len(rows.read(tmp_path / "two/rows.jsonl")) == len(planted.OUTCOMES)
    ran.clear()
    monkeypatch.setattr(rows, "source_hash", lambda step: "changed since")
    two_steps("--failed", str(first_rows), "--filter", "right", "--out", str(tmp_path / "three"))
    assert ran == ["right"]


def test_the_hash_is_of_the_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    for name in ("mpkernels/a.py", "csrc/b.h", "benchmarks/gpu/steps/routers.py", "shared.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    step = Step("routers", 1, 1, 1, {}, ("shared.py",))
    hashes = {rows.source_hash(step)}
    for path in [path for path in tmp_path.rglob("*.*") if path.is_file()]:
        path.write_text("changed")
        hashes.add(rows.source_hash(step))
    assert len(hashes) == 5
    (tmp_path / "README.md").write_text("changed")
    assert rows.source_hash(step) in hashes


def test_a_line_that_was_cut_off_is_no_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows.append(path, {"step": "host", "case": "a", "state": "failed"})
    rows.append(path, {"step": "host", "case": "a", "state": "done"})
    with path.open("a") as file:
        file.write('{"step": "host", "ca')
    assert rows.read(path) == [{"step": "host", "case": "a", "state": "done"}]


def test_without_a_gpu_nothing_runs_and_nothing_looks_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert command.main(["--out", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "torch finds no GPU" in output and "correctness" not in output
    (row,) = rows.read(tmp_path / "rows.jsonl")
    assert (row["step"], row["state"]) == ("environment", "failed")
    assert "no GPU" in (tmp_path / "page.md").read_text()


def test_steps_name_their_cases_and_what_must_be_had_fits_four_minutes():
    for step in plan.STEPS:
        names = step.module().cases()
        assert names and len(set(names)) == len(names), step.name
        assert step.case_seconds <= step.seconds
    must_have = [step for step in plan.STEPS if step.name in plan.MUST_HAVE]
    assert sum(step.seconds for step in (*plan.FIRST, *must_have)) <= 240
    assert tuple(step.name for step in plan.STEPS)[: len(plan.MUST_HAVE)] == plan.MUST_HAVE


def test_correctness_sees_a_wrong_kernel(monkeypatch):
    case = Case(correctness.ODD, "bf16", "nchw", 3)
    good = correctness.check(case, "mix", "cpu")
    assert good["right"] and 0 < good["share"] <= 1
    original = correctness.run_operator

    def wrong(operator, problem):
        outputs = original(operator, problem)
        return outputs | {"y0": 1.05 * outputs["y0"]}

    monkeypatch.setattr(correctness, "run_operator", wrong)
    bad = correctness.check(case, "mix", "cpu")
    assert not bad["right"] and "y0 is" in bad["wrong"]


def test_correctness_sees_a_sample_that_depends_on_its_batch(monkeypatch):
    original = correctness.run_operator

    def by_batch(operator, problem):
        outputs = original(operator, problem)
        return outputs | {
            "y0": torch.nextafter(outputs["y0"], outputs["y0"] + len(problem.xs[0]) % 2)
        }

    monkeypatch.setattr(correctness, "run_operator", by_batch)
    bad = correctness.check(Case(correctness.ODD, "fp32", "nchw", 3), "mix", "cpu")
    assert "halves" in bad["wrong"]


SPREAD = {"low": 9.0, "median": 10.0, "high": 11.0}
TIMES = {
    f"{name} {part}": {key: value * scale for key, value in SPREAD.items()}
    for name, scale in (("fused", 1.0), ("loops", 6.0), ("stacked", 5.0), ("copy", 0.5),
                        ("compile", 1.05))
    for part in tables.PARTS
}  # fmt: skip
CARD = {"card": "A Card", "state": "done"}
MEASURED = [
    {"step": "environment", "case": "environment", **CARD, "torch": "2.11.0", "clocks": {}},
    {"step": "launches", "case": "mix", **CARD, "share": 0.5, "kernels": ["_mix_kernel"]},
    {"step": "correctness", "case": "a", **CARD, "operator": "mix", "dtype": "fp32", "share": 0.2},
    {"step": "correctness", "case": "b", "card": "A Card", "state": "not reached"},
    {"step": "routers", "case": "B=1 [2, 3, 3] 2->2 fp32 NCHW", **CARD, "method": "resident",
     "microseconds": TIMES},
    {"step": "routers", "case": "B=1 [2, 3, 3] 2->2 bf16 NCHW", "card": "A Card", "state": "failed",
     "why": "it broke"},
    {"step": "compiled", "case": "B=1 [2, 3, 3] 2->2 fp32 NCHW", **CARD, "microseconds": TIMES},
    {"step": "host", "case": "B=8 [2, 3, 3] 2->2 fp32", **CARD, "microseconds": TIMES},
    {"step": "networks", "case": "basecnn_3_cc fp32 NCHW", **CARD, "graph_apart": 0.0,
     "plain_apart": 0.0, "peak_bytes": {"eager": 2**20, "fused": 2**21},
     "microseconds": dict.fromkeys(("eager", "fused", "eager graph", "fused graph"), SPREAD)},
    {"step": "compiled_networks", "case": "basecnn_3_cc fp32 eager", **CARD,
     "microseconds": {"eager graph": SPREAD}},
    {"step": "device_tests", "case": "test_x.py::test_y", **CARD, "tests": 3, "failures": 0},
    {"step": "sanitizer", "case": "memcheck", **CARD, "launches": 9, "last": "ERROR SUMMARY: 0"},
    {"step": "counters", "case": "B=1 [2, 3, 3] 2->2 fp32 NCHW", **CARD, "floor_bytes": [1, 2],
     "kernels": [{"kernel": "resident_kernel", "microseconds": 3.0}]},
    {"step": "tuning", "case": "B=1 [2, 3, 3] 2->2 fp32 NCHW", **CARD, "shares": {"forward": 0.9},
     "found": {}},
]  # fmt: skip


def test_the_page_answers_on_its_first_screen():
    text = page.page(MEASURED)
    first = text.split("## Launches")[0]
    assert "# mpkernels on A Card" in first and "torch 2.11.0" in first
    assert "correctness 1 of 2 (1 not reached)" in first and "wrong" not in first
    assert "| Against loops, GPU time of the other over fused's (fp32) | forward 6.00" in first
    assert "Against compile" in first and "basecnn_3_cc fp32 NCHW: eager 0.01 ms" in first
    assert "routers: B=1 [2, 3, 3] 2->2 bf16 NCHW: failed: it broke" in first


def test_every_line_of_a_table_has_the_columns_of_its_head():
    width = None
    for line in page.page(MEASURED).splitlines():
        if not line.startswith("|"):
            width = None
        elif width is None:
            width = line.count("|")
        else:
            assert line.count("|") == width, line


def test_quotients_are_bold_only_where_intervals_are_apart():
    text = page.page(MEASURED)
    assert "**6.00**" in text and "| 1.05 |" in text and "**1.05**" not in text


def test_cards_are_never_mixed():
    other = [{**row, "card": "Another"} for row in MEASURED if row["step"] == "routers"]
    text = page.page(MEASURED + other)
    assert "## A Card: the answers" in text and "## Another: the answers" in text
    assert text.count("| B=1 [2, 3, 3] 2->2 fp32 NCHW | resident | forward |") == 2


def test_the_steps_are_those_of_the_documentation():
    document = (rows.ROOT / "docs/gpu.md").read_text()
    for step in (*plan.FIRST, *plan.STEPS):
        counts = (len(step.module().cases()), step.workers, f"{step.seconds:.0f}")
        line = next(line for line in document.splitlines() if line.startswith(f"| {step.name} |"))
        assert line.endswith(f"| {' | '.join(map(str, counts))} |"), line


def test_the_report_needs_neither_what_training_needs_nor_what_tests_need():
    """A machine with a GPU may have torch and no network to install more from."""
    done = python(
        """
        import importlib, sys
        for name in ("safetensors", "matplotlib", "scipy", "sklearn", "torchvision", "tqdm"):
            sys.modules[name] = None
        import benchmarks.gpu.__main__
        from benchmarks.gpu import plan
        for step in (*plan.FIRST, *plan.STEPS):
            assert step.module().cases()
        """,
        path=ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_device_tests_run_the_kernels_of_the_device():
    """Tests of CUDA tensors force Triton, not the backends of CPU tensors."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--device", "cuda"]
    listed = subprocess.run(
        [*command, "-p", "no:cacheprovider", f"tests/{FILES[-2]}"],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout  # fmt: skip
    names = [line for line in listed.splitlines() if "::test_gate[" in line]
    assert names and all("::test_gate[triton-" in name for name in names)
