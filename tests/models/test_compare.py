"""Comparisons: plans, trials that stop and resume, figures and orders of the report."""

import csv
import json
import math
import re
import signal

import numpy as np
import pytest
import torch

import models
from models import compare
from models.compare import main, scaled
from models.environment import environment
from models.paper import results as comparison
from models.paper.report import printed_error
from models.paper.suites import CLAIMS, ENSEMBLES, ERRORS, ERRORS_350, ERRORS_CIFAR100, SUITES
from models.paper.tables import ROWS
from models.training import fit
from models.training.step import Trainer

TINY = ["--suite", "table2", "--data", "digits", "--scale", "0.01", "--epochs", "1"]
TINY += ["--trials", "2", "--threads", "1"]


def test_suites_are_the_papers_tables():
    assert {name: len(rows) for name, rows in SUITES.items()} == {
        f"table{table}": sum(row.table == table for row in ROWS) for table in (2, 3, 4)
    }
    named = {entry.name for rows in SUITES.values() for entry in rows}
    assert named == set(ERRORS) and named <= set(models.list())
    assert {*ERRORS_350, *ERRORS_CIFAR100} <= named
    for claim in CLAIMS:
        assert set(claim.better) | set(claim.worse) <= named
    assert ERRORS["basecnn_3_cc"] < ERRORS["basecnn_2_cc"] < ERRORS["cr_stitch_2"]


@pytest.mark.parametrize("name", [e.name for e in SUITES["table2"] if e.name not in ENSEMBLES])
def test_networks_of_table_2_scale_or_say_why_not(name):
    options = models.options(name)
    if "stages" not in options:
        with pytest.raises(ValueError, match="its widths cannot be scaled"):
            scaled(options, 0.5)
        return
    assert scaled(options, 1) == {}
    sizes = [
        sum(p.numel() for p in models.create(name, **scaled(options, scale)).parameters())
        for scale in (1, 0.5, 0.25)
    ]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]
    assert all(width >= 4 for stage in scaled(options, 0.001)["stages"] for width in stage)


def test_a_comparison_goes_on_where_it_stopped(tmp_path, capsys):
    rows = ["--rows", "basecnn", "basecnn_2_cc", "basecnn_ensemble", "capsnet"]
    out = ["--out", str(tmp_path)]
    assert main([*TINY, *rows[:2], *out]) == 0
    first = (tmp_path / "basecnn" / "trial0" / "trial.json").read_bytes()
    (tmp_path / "basecnn" / "trial1" / "trial.json").unlink()
    capsys.readouterr()
    assert main([*TINY, *rows, *out]) == 0
    output = capsys.readouterr()
    assert "basecnn, trial 0" not in output.out and "basecnn, trial 1" in output.out
    assert "capsnet is left out: its widths cannot be scaled" in output.err
    assert (tmp_path / "basecnn" / "trial0" / "trial.json").read_bytes() == first

    report = (tmp_path / "report.md").read_text()
    assert f"Trained on {environment('cpu')['device']}, " in report and torch.__version__ in report
    assert "| Capsule network (Sabour et al.) | its widths cannot be scaled |" in report
    assert "| BaseCNN Ensemble | not trained |" in report  # of two members where three are wanted
    assert "| routed is better than one path | basecnn_2_cc | basecnn | 2 |" in report
    with (tmp_path / "report.csv").open() as file:
        table = {row["network"]: row for row in csv.DictReader(file)}
    assert set(table) == {"basecnn", "basecnn_2_cc"}
    trials = [
        json.loads((tmp_path / "basecnn" / f"trial{t}" / "trial.json").read_text()) for t in (0, 1)
    ]
    errors = [100 * (1 - trial["metrics"][-1]["test_accuracy"]) for trial in trials]
    assert table["basecnn"]["errors"] == " ".join(f"{e:.4f}" for e in errors)
    assert float(table["basecnn"]["mean"]) == pytest.approx(sum(errors) / 2, abs=0.006)
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"

    (tmp_path / "report.md").unlink()
    assert main([*TINY, *rows, "--report-only", *out]) == 0
    assert (tmp_path / "report.md").read_text() == report
    nowhere = str(tmp_path / "nowhere")
    for arguments, reason in (
        (["--scale", "0.02"], "has scale 0.01, got 0.02"),
        (["--scale", "0"], "scale must be above 0 and at most 1"),
        (["--trials", "0"], "trials must be at least 1"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--report-only", "--out", nowhere], "out must be the folder of a comparison"),
        (["--rows", "basecnn", "resnet20"], "rows must be some of .*got resnet20"),
    ):
        assert main([*TINY, *out, *arguments]) == 2
        assert re.search(reason, capsys.readouterr().err)
    assert not (tmp_path / "nowhere").exists()


def test_a_signal_keeps_half_a_trial(tmp_path, monkeypatch):
    whole, part = tmp_path / "whole", tmp_path / "part"
    command = [*TINY, "--epochs", "3", "--trials", "1", "--rows", "basecnn", "--out"]
    finish_epoch, train_step, steps = Trainer.finish_epoch, Trainer.train_step, []

    def finish_and_stop(trainer, *rest):
        finish_epoch(trainer, *rest)
        signal.raise_signal(signal.SIGTERM)  # takes effect after the next step

    def count(trainer, *rest):
        steps.append(trainer.epoch)
        train_step(trainer, *rest)

    monkeypatch.setattr(Trainer, "train_step", count)
    assert main([*command, str(whole)]) == 0
    with monkeypatch.context() as stopping:
        stopping.setattr(Trainer, "finish_epoch", finish_and_stop)
        assert main([*command, str(part)]) == 143
    assert not (part / "basecnn" / "trial0" / "trial.json").exists()
    assert main([*command, str(part)]) == 0
    assert steps == [0, 1, 2] + [0, 1] + [2]
    whole_probabilities, part_probabilities = (
        np.load(folder / "basecnn" / "trial0" / "predictions.npz")["probabilities"]
        for folder in (whole, part)
    )
    assert np.array_equal(whole_probabilities, part_probabilities)


def test_a_trial_that_fails_is_told_and_tried_again(tmp_path, monkeypatch, capsys):
    command = [*TINY, "--rows", "basecnn", "--out", str(tmp_path)]

    def diverges(model, images, recipe, **rest):
        if recipe.seed == 1:
            raise FloatingPointError("the loss is nan")
        return fit(model, images, recipe, **rest)

    monkeypatch.setattr(compare, "fit", diverges)
    assert main(command) == 0
    report = (tmp_path / "report.md").read_text()
    assert re.search(r"\| BaseCNN \| [\d,]+ \| 1, 1 failed \|", report)
    assert "- basecnn, trial1: the loss is nan" in report
    assert main([*command, "--report-only"]) == 0
    assert (tmp_path / "report.md").read_text() == report

    monkeypatch.undo()
    assert main(command) == 0
    report = (tmp_path / "report.md").read_text()
    assert re.search(r"\| BaseCNN \| [\d,]+ \| 2 \|", report) and "the loss is nan" not in report

    trial = tmp_path / "basecnn" / "trial1"
    (trial / "trial.json").unlink()
    (tensors,) = trial.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:100])
    capsys.readouterr()
    assert main(command) == 2  # rather than a comparison without this trial
    assert f"{tensors} is damaged" in capsys.readouterr().err


def test_an_ensemble_averages_its_members(tmp_path):
    labels = np.array([0, 1, 1])
    members = {  # each is wrong on one image, and no two on the same
        "basecnn": [[0.9, 0.1], [0.6, 0.4], [0.1, 0.9]],
        "widecnn": [[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]],
        "deepcnn": [[0.4, 0.6], [0.1, 0.9], [0.1, 0.9]],
    }
    for name, probabilities in members.items():
        folder = tmp_path / name / "trial0"
        folder.mkdir(parents=True)
        np.savez(folder / "predictions.npz", probabilities=np.array(probabilities), labels=labels)
        text = {"metrics": [{"test_accuracy": 2 / 3}], "parameters": 10}
        (folder / "trial.json").write_text(json.dumps(text))
    result = comparison.ensemble(tmp_path, "all_ensemble")
    assert result.by_seed == {0: 0.0} and result.parameters == 30 and math.isnan(result.best)
    assert comparison.ensemble(tmp_path, "basecnn_ensemble") is None  # it lacks two members


def test_ensembles_of_one_kind_have_three_members_each_in_one_of_them(tmp_path):
    for trial in (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11):  # not 4: the second ensemble is not whole
        folder = tmp_path / "basecnn" / f"trial{trial}"
        folder.mkdir(parents=True)
        wrong = np.array([[0.3, 0.7]] if trial in (6, 7, 9) else [[0.9, 0.1]])
        np.savez(folder / "predictions.npz", probabilities=wrong, labels=np.array([0]))
        text = {"metrics": [{"test_accuracy": 0.5}], "parameters": 10, "seed": trial}
        (folder / "trial.json").write_text(json.dumps(text))
    result = comparison.ensemble(tmp_path, "basecnn_ensemble")
    # (0.3 + 0.3 + 0.9) / 3 is 0.5: a draw goes to the first class.
    assert result.by_seed == {0: 0.0, 6: 0.0, 9: 0.0} and result.parameters == 30


def test_the_papers_errors_are_those_of_its_data_and_epochs():
    (entry,) = (e for e in SUITES["table3"] if e.name == "resnet110")
    assert printed_error(entry, {"data": "cifar10"}) == "6.61"
    assert printed_error(entry, {"data": "cifar100", "recipe": None}) == "26.88"
    (entry,) = (e for e in SUITES["table2"] if e.name == "basecnn_3_cc")
    assert printed_error(entry, {"data": "cifar10", "recipe": "cifar_cnn_350"}) == "6.09"
    assert printed_error(entry, {"data": "cifar100"}) == ""
    assert printed_error(entry, {"data": "cifar100", "recipe": "cifar_cnn_350"}) == ""


def test_the_second_column_of_table_2(tmp_path):
    command = [*TINY[:4], "--scale", "0.01", "--rows", "basecnn_2_cc", "--trials", "1"]
    command += ["--threads", "1", "--recipe", "cifar_cnn_350", "--out", str(tmp_path)]
    assert main(command) == 0
    report = (tmp_path / "report.md").read_text()
    assert "recipe cifar_cnn_350" in report and "| 1.11 | 6.53 |" in report
    recipe = (tmp_path / "basecnn_2_cc/trial0/recipe.toml").read_text()
    assert "epochs = 1\n" in recipe
