"""The GPU report without a GPU: what it says then, how it resumes, and what fails in it."""

import json

import pytest
import torch
from conftest import INTERPRETED

if INTERPRETED:
    pytest.skip("runs in the other process", allow_module_level=True)

from benchmarks import (
    baselines,
    gpu,
    gpu_correctness,
    gpu_kernels,
    gpu_proof,
    gpu_report,
    gpu_steps,
)
from benchmarks.cases import Case


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        gpu_proof, "without_gpu", lambda report: {"proof": {"tests": 3}, "right": True}
    )


def test_without_a_gpu_nothing_looks_measured(no_gpu, tmp_path, capsys):
    assert gpu.main(["--out", str(tmp_path)]) == 0
    assert "no GPU" in capsys.readouterr().out
    report = json.loads((tmp_path / "gpu_none.json").read_text())
    for name in set(gpu.PARTS) - {"environment"}:
        assert report[name] == {"state": "not measured", "why": "no GPU"}
    assert report["proof"]["state"] == report["environment"]["state"] == "done"
    page = (tmp_path / "gpu_none.md").read_text()
    assert page.count("not measured: no GPU") == len(gpu.PARTS) - 1
    assert "a machine without a GPU" in page and "microseconds" not in page


def test_parts_fail_alone_and_are_saved_one_by_one():
    report, saved = {}, []

    def broken(_):
        raise RuntimeError("no such thing in /some/private/place/file.py")

    parts = {"one": lambda r: {"value": 1}, "two": broken, "three": lambda r: {"right": False}}
    good = gpu.run_parts(report, parts, 60, lambda: saved.append(list(report)))
    assert not good and saved == [["one"], ["one", "two"], ["one", "two", "three"]]
    assert report["one"]["state"] == report["three"]["state"] == "done"
    assert report["two"]["state"] == "failed" and "RuntimeError" in report["two"]["why"]
    assert "private" not in report["two"]["why"]
    page = gpu_report.page(report)
    assert "failed: RuntimeError" in page and "**Wrong results.**" in page
    assert not gpu.run_parts(report, {"four": lambda r: {}}, -1, lambda: None)
    assert report["four"]["state"] == "not reached"


def test_a_second_run_goes_on_where_the_first_stopped():
    report = {"copy": {"state": "done"}, "kernels": {"state": "failed"}, "steps": {"state": "done"}}
    assert list(gpu.chosen(report, ["copy", "kernels", "steps"], [])) == ["kernels"]
    assert list(gpu.chosen(report, ["copy", "kernels"], ["copy"])) == ["copy", "kernels"]
    assert list(gpu.chosen(report, None, ["all"])) == list(gpu.PARTS)


def test_the_page_shows_what_was_measured():
    spread = {"median": 12.34, "low": 12.0, "high": 13.0}
    row = {
        "shape": [128, 64, [8, 8], 2, 2], "dtype": "float32", "method": "resident", "right": True,
        "cold": {"fused forward": {**spread, "share_of_copy": 0.91}, "loops forward": spread},
        "warm": {},
    }  # fmt: skip
    wrong = {**row, "right": False}
    page = gpu_report.page({"kernels": {"state": "done", "rows": [row, wrong], "right": False}})
    assert "| [128x64x8x8] 2->2 | float32 | resident | forward | 12.3 [12.0, 13.0] | 91% |" in page
    assert "| wrong |" in page
    row = {"network": "basecnn_2_cc", "batch": 128, "dtype": "fp32", "kind": "fused + graph",
           **spread, "images_per_second": 9876.5, "peak_bytes": 3 << 20}  # fmt: skip
    section = {"state": "done", "rows": [row], "graph_apart": {"basecnn_2_cc": 2e-7}}
    page = gpu_report.page({"steps": {**section, "right": True}})
    line = "| basecnn_2_cc | 128 | fp32 | fused + graph | 12.3 [12.0, 13.0] | 9876 | 3 |"
    assert line in page and "basecnn_2_cc 2.0e-07" in page
    head = next(text for text in page.splitlines() if text.startswith("| network"))
    assert head.count("|") == line.count("|")


def test_a_wrong_contender_gets_no_time():
    problem = gpu_kernels.Problem(Case(5, 13, (5, 7), 2, 3))
    assert problem.is_right(baselines.fused) and problem.is_right(baselines.stacked)
    assert not problem.is_right(lambda xs, *p: [1.001 * y for y in baselines.loops(xs, *p)])
    forward, backward = problem.floor()
    assert forward == 5 * problem.xs[0].nbytes and backward == 7 * problem.xs[0].nbytes
    assert len(problem.backward()()[0]) == 2 and len(problem.both(baselines.fused)()) == 6


def test_a_training_step_trains():
    model = gpu_steps.build("basecnn_2_cc", "fused")
    before = [p.detach().clone() for p in model.parameters()]
    step = gpu_steps.training_step(model, model, *gpu_steps.images(8))
    step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_tests_are_counted():
    found = gpu_proof.tests(["test_layers.py"], "-k", "imports", limit=120)
    assert found["right"] and found["tests"] > 0 and found["failures"] == 0
    missing = gpu_proof.tests(["test_layers.py"], "-k", "nothing_has_this_name", limit=120)
    assert not missing["right"]


def test_correctness_sees_a_wrong_kernel(monkeypatch):
    case = gpu_correctness.Case(gpu_correctness.Router(13, (5, 7), 2, 3), "bf16", "nchw", 3)
    row = gpu_correctness.check(case, "cpu", 1, float("inf"))
    assert row["wrong"] == [] and 0 < max(row["share"].values()) <= 1
    real = gpu_correctness.functional.mix
    monkeypatch.setattr(
        gpu_correctness.functional, "mix", lambda xs, gates: [1.05 * y for y in real(xs, gates)]
    )
    wrong = gpu_correctness.check(case, "cpu", 1, float("inf"))
    assert any("mix: y0" in text for text in wrong["wrong"])
    assert gpu_correctness.check(case, "cpu", 1, 0.0) is None
    found = gpu_correctness.summary([row, wrong, None])
    assert (found["cases"], found["checked"]) == (3, 2) and found["wrong"]
