"""Comparisons: plans, trials that stop and go on, figures and orders of the report."""

import csv
import json
import math
import re

import pytest

import models
from models import comparison
from models.compare import main, scaled
from models.comparison import Result, verdict
from models.paper import ROWS
from models.suites import CLAIMS, ENSEMBLES, ERRORS, SUITES, Claim

TINY = ["--suite", "table2", "--data", "digits", "--scale", "0.01", "--epochs", "1"]
TINY += ["--trials", "2", "--threads", "1"]


def test_suites_are_the_papers_tables():
    assert {name: len(rows) for name, rows in SUITES.items()} == {
        f"table{table}": sum(row.table == table for row in ROWS) for table in (2, 3, 4)
    }
    named = {entry.name for rows in SUITES.values() for entry in rows}
    assert named == set(ERRORS) and named <= set(models.list())
    for claim in CLAIMS:
        assert set(claim.better) | set(claim.worse) <= named
    assert ERRORS["basecnn_3_cc"] < ERRORS["basecnn_2_cc"] < ERRORS["cr_stitch_2"]


@pytest.mark.parametrize("name", [e.name for e in SUITES["table2"] if e.name not in ENSEMBLES])
def test_networks_of_table_2_scale_or_say_why_not(name):
    known = models.options(name)
    if "stages" not in known:
        with pytest.raises(ValueError, match="its widths cannot be scaled"):
            scaled(known, 0.5)
        return
    assert scaled(known, 1) == {}
    sizes = [
        sum(p.numel() for p in models.create(name, **scaled(known, scale)).parameters())
        for scale in (1, 0.5, 0.25)
    ]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]
    assert all(width >= 4 for stage in scaled(known, 0.001)["stages"] for width in stage)


def test_a_comparison_goes_on_where_it_stopped(tmp_path, capsys):
    rows = ["--rows", "basecnn", "basecnn_2_cc", "basecnn_ensemble", "capsnet"]
    out = ["--out", str(tmp_path)]
    assert main([*TINY, *rows[:2], *out]) == 0
    first = (tmp_path / "basecnn" / "trial0" / "trial.json").read_bytes()
    (tmp_path / "basecnn" / "trial1" / "trial.json").unlink()
    capsys.readouterr()
    assert main([*TINY, *rows, *out]) == 0
    said = capsys.readouterr()
    assert "basecnn, trial 0" not in said.out and "basecnn, trial 1" in said.out
    assert "capsnet is left out: its widths cannot be scaled" in said.err
    assert (tmp_path / "basecnn" / "trial0" / "trial.json").read_bytes() == first

    report = (tmp_path / "report.md").read_text()
    assert "| Capsule network (Sabour et al.) | its widths cannot be scaled |" in report
    assert "| BaseCNN Ensemble |" in report and "routed is better than one path" in report
    with (tmp_path / "report.csv").open() as file:
        table = {row["network"]: row for row in csv.DictReader(file)}
    assert set(table) == {"basecnn", "basecnn_2_cc", "basecnn_ensemble"}
    trials = [
        json.loads((tmp_path / "basecnn" / f"trial{t}" / "trial.json").read_text()) for t in (0, 1)
    ]
    errors = [100 * (1 - trial["metrics"][-1]["test_accuracy"]) for trial in trials]
    assert table["basecnn"]["errors"] == " ".join(f"{e:.4f}" for e in errors)
    assert float(table["basecnn"]["mean"]) == pytest.approx(sum(errors) / 2, abs=0.006)
    assert int(table["basecnn_ensemble"]["parameters"]) == 2 * int(table["basecnn"]["parameters"])
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"

    before = (tmp_path / "report.md").read_text()
    assert main([*TINY, *rows[:4], "--report-only", *out]) == 0
    assert "BaseCNN-2-CC" in (tmp_path / "report.md").read_text() != before
    for arguments, reason in (
        (["--scale", "0.02"], "has scale 0.01, got 0.02"),
        (["--scale", "0"], "scale must be above 0 and at most 1"),
        (["--trials", "0"], "trials must be at least 1"),
        (["--rows", "basecnn", "resnet20"], "rows must be some of .*got resnet20"),
    ):
        assert main([*TINY, *arguments, *out]) == 2
        assert re.search(reason, capsys.readouterr().err)


def test_an_ensemble_averages_its_members(tmp_path):
    import numpy as np

    labels = np.array([0, 1, 1])
    of = {  # each alone is wrong once, on another image
        "basecnn": [[0.9, 0.1], [0.6, 0.4], [0.1, 0.9]],
        "widecnn": [[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]],
        "deepcnn": [[0.4, 0.6], [0.1, 0.9], [0.1, 0.9]],
    }
    for name, probabilities in of.items():
        folder = tmp_path / name / "trial0"
        folder.mkdir(parents=True)
        np.savez(folder / "predictions.npz", probabilities=np.array(probabilities), labels=labels)
        text = {"metrics": [{"test_accuracy": 2 / 3}], "parameters": 10}
        (folder / "trial.json").write_text(json.dumps(text))
    found = comparison.ensemble(tmp_path, "all_ensemble")
    assert found.errors == (0.0,) and found.parameters == 30 and math.isnan(found.best)
    assert comparison.ensemble(tmp_path, "basecnn_ensemble") is None  # of one trial


def test_orders():
    def result(*errors):
        return Result(errors, min(errors), 1)

    claim, equal = Claim("", ("a",), ("b",)), Claim("", ("a",), ("b",), equal=True)
    good, bad, noisy = result(5.0, 5.2, 5.1), result(8.0, 8.2, 8.1), result(4.0, 9.0, 6.0)
    difference, error, says = verdict(claim, good, bad)
    # Deviation 0.1 in both: the standard error is sqrt(2 * 0.01 / 3).
    assert difference == pytest.approx(3.0) and error == pytest.approx(math.sqrt(0.02 / 3))
    assert says == "shows" and verdict(claim, bad, good)[2] == "reversed"
    assert verdict(claim, good, noisy)[2] == "does not show"
    assert verdict(equal, good, noisy)[2] == "agrees" and verdict(equal, good, bad)[2] == "differs"
    assert verdict(claim, result(5.0), bad)[2] == "one trial says nothing"
