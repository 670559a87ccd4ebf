"""The routing experiment: its statistics by hand and against SciPy, its rule, and a small run."""

import json
import math

import pytest
from scipy.stats import ttest_rel

from models import routing as command
from models.paper import routing


def cell(accuracies, mean_gates=None):
    """Trials of these accuracies, by seed."""
    trials = {seed: {"accuracy": a} for seed, a in enumerate(accuracies)}
    for seed, accuracy in enumerate(mean_gates or ()):
        rows = [{"routers": "all", "rule": "mean", "accuracy": accuracy}]
        trials[seed]["gates"] = {"contrasts": rows}
    return trials


def matrix(**arms):
    return {("net", arm): cell(*trials) for arm, trials in arms.items()}


PLAN = {"seeds": 5, "data": "d", "scale": 1, "images": 9, "epochs": 1}
LINEAR = ([0.82, 0.83, 0.81], [0.81, 0.83, 0.81])
GLOROT = ([0.83, 0.82, 0.82], [0.80, 0.79, 0.81])


def test_contrasts_are_those_of_paired_t_tests():
    found = routing.contrasts(matrix(linear=LINEAR, glorot=GLOROT, even=([0.80, 0.81, 0.80],)))
    of = {(c.first, c.second): c for c in found}
    assert list(of) == [
        ("linear", "linear, mean gates"), ("linear", "even"),
        ("glorot", "glorot, mean gates"), ("glorot", "even"), ("glorot", "linear"),
    ]  # fmt: skip
    for pair, first, second in (
        (("glorot", "linear"), GLOROT[0], LINEAR[0]),
        (("glorot", "glorot, mean gates"), *GLOROT),
        (("linear", "even"), LINEAR[0], [0.80, 0.81, 0.80]),
    ):
        expected = ttest_rel(first, second)
        low, high = expected.confidence_interval(0.95)
        c = of[pair]
        assert c.p == pytest.approx(expected.pvalue)
        assert (c.low, c.high, c.seeds) == (pytest.approx(low), pytest.approx(high), 3)


def test_seeds_that_only_one_side_has_are_left_out():
    found = routing.contrasts(matrix(linear=LINEAR, glorot=([0.83], [0.80])))
    of = {(c.first, c.second): c for c in found}
    assert of["glorot", "linear"].seeds == 1 and math.isnan(of["glorot", "linear"].p)
    assert math.isnan(of["glorot", "linear"].adjusted)


def test_the_rule():
    base = [0.82, 0.83, 0.81]

    def picked(glorot_lead, drops, seeds=3):
        rows = {}
        for start, lead in (("linear", 0), ("glorot", glorot_lead), ("he", 0)):
            noise = [1e-4, -1e-4, 0] if start == "glorot" else [0, 1e-4, -1e-4]
            accuracies = [a + lead + e for a, e in zip(base, noise)]
            rows[start] = (accuracies, [a - drops[start] for a in accuracies])
        return routing.default(routing.contrasts(matrix(**rows)), ["net"], seeds)

    drops = {"linear": 0.002, "glorot": 0.01, "he": 0.02}
    assert picked(0, drops) == "he"  # nobody is beaten: the largest drop
    assert picked(0.05, drops) == "glorot"  # it beats both others
    assert picked(-0.05, {**drops, "glorot": 0.5}) == "he"  # the beaten one is out
    assert picked(0, drops, seeds=5) is None  # unfinished
    text = routing.markdown(matrix(linear=LINEAR), PLAN)
    assert "Unfinished: the rule picks no start yet." in text
    assert "| net | linear | 3 of 5: unfinished | 82.00 | 1.00 |" in text


def test_a_small_run_and_its_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "NETWORKS", ("basecnn_2_cc",))
    arguments = ["--data", "digits", "--limit", "48", "--scale", "0.1", "--epochs", "1", "--seeds",
                 "1", "--out", str(tmp_path)]  # fmt: skip
    assert command.main(arguments) == 0
    report = (tmp_path / "report.md").read_text()
    assert "widths times 0.1, 48 training images, 1 epochs" in report
    assert "The rule picks linear." in report  # nobody is beaten, nothing drops
    for arm in command.ARMS:
        assert f"| basecnn_2_cc | {arm} | 1 |" in report
        result = json.loads((tmp_path / f"basecnn_2_cc-{arm}/seed0/trial.json").read_text())
        assert ("gates" in result) == (arm in routing.STARTS)
        (epoch,) = (tmp_path / f"basecnn_2_cc-{arm}/seed0/metrics.jsonl").read_text().splitlines()
        deviations = [v for k, v in json.loads(epoch).items() if k.endswith("/deviation")]
        assert len(deviations) == (5 if arm in (*routing.STARTS, "even") else 0)
        if arm == "even":
            assert set(deviations) == {0}
    before = (tmp_path / "basecnn_2_cc-he/seed0/trial.json").stat().st_mtime_ns
    capsys.readouterr()
    assert command.main(arguments) == 0  # nothing is left to do
    assert (tmp_path / "basecnn_2_cc-he/seed0/trial.json").stat().st_mtime_ns == before
    assert command.main([*arguments[:-2], "--out", str(tmp_path), "--scale", "0.2"]) == 2
    assert "has scale 0.1, got 0.2" in capsys.readouterr().err


def test_commands_side_by_side_train_networks_of_their_own(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(command, "trial", lambda *arguments: trained.append(arguments[:3]))
    arguments = ["--data", "digits", "--limit", "8", "--seeds", "2", "--out", str(tmp_path)]
    assert command.main([*arguments, "--networks", "basecnn_3_cc"]) == 0
    assert trained == [("basecnn_3_cc", arm, seed) for seed in (0, 1) for arm in command.ARMS]
