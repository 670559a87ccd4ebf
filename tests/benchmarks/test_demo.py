"""The demo runs, its figures agree with each other, and it writes a picture."""

import importlib.util
import json
import statistics
import struct
import subprocess
import sys

import pytest
import torch

from benchmarks import demo
from models import data
from proof.where import ROOT


def test_the_demo(tmp_path):
    arguments = ["--limit", "256", "--epochs", "1", "--rounds", "2", "--out", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "demo.json").read_text())
    ms = result["milliseconds"]
    assert ms == {name: statistics.median(times) for name, times in result["rounds"].items()}
    assert all(len(times) == 2 for times in result["rounds"].values())
    assert result["routers_speedup"] == ms["eager routers"] / ms["fused routers"]
    assert result["step_speedup"] == ms["eager step"] / ms["fused step"]
    for kind in demo.KINDS:
        assert result["share"][kind] == ms[f"{kind} routers"] / ms[f"{kind} step"]
        assert 0 < result["share"][kind] < 1
        assert result["accuracy"][kind] == result["runs"][kind][-1]["test_accuracy"]
    assert f"routers:  {result['routers_speedup']:.2f} times as fast" in run.stdout
    assert f"step:     {result['step_speedup']:.2f} times as fast" in run.stdout
    assert f"picture:  {tmp_path / 'demo.png'}" in run.stdout
    png = (tmp_path / "demo.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and width > 800 and height > 800
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json", "demo.png"]


def test_both_networks_start_from_the_same_weights_with_different_routers():
    images = data.load("digits", limit=8)
    fused, eager = (demo._build(kind, images, 3, "cpu") for kind in demo.KINDS)
    for (name, one), other in zip(fused.state_dict().items(), eager.state_dict().values()):
        assert torch.equal(one, other), name
    assert [type(r) for r in fused.routers] != [type(r) for r in eager.routers]
    x = data.normalise(images, images.train_x)
    torch.testing.assert_close(fused(x), eager(x), rtol=1e-4, atol=1e-4)


def test_the_tolerance_is_three_standard_errors():
    assert demo.tolerance(1.0, 355) == 1
    assert demo.tolerance(0.5, 200) == 1 + 30


@pytest.mark.parametrize("fused, eager, same", [(0.5, 0.5, True), (1, 0.99, True), (1, 0.9, False)])
def test_accuracies_are_compared_in_images(fused, eager, same):
    runs = {"fused": [{"test_accuracy": fused}], "eager": [{"test_accuracy": eager}]}
    comparison = demo.compare(runs, 400)
    assert comparison["apart"] == round(400 * (fused - eager))
    assert (comparison["apart"] <= comparison["allowed"]) == same


@pytest.mark.parametrize(("apart", "status"), [(0, 0), (300, 1)])
def test_the_exit_status_tells_whether_accuracies_agree(monkeypatch, tmp_path, apart, status):
    accuracies = iter((1.0, 1.0 - apart / 355))
    line = {"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "test_loss": 1.0}
    monkeypatch.setattr(demo, "fit", lambda *_, **__: [{**line, "test_accuracy": next(accuracies)}])
    arguments = ["--limit", "2", "--epochs", "1", "--rounds", "1", "--out", str(tmp_path)]
    assert demo.main(arguments) == status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (["--limit", "1"], "limit must be at least 2, got 1"),
        (["--epochs", "0"], "epochs must be positive, got 0"),
        (["--data", "folder"], "name it with --data-dir"),
        (["--out", __file__], "exists"),
    ],
)
def test_bad_arguments_are_found_before_training(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(demo, "fit", lambda *_, **__: pytest.fail("it trained"))
    assert demo.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_missing_matplotlib_is_found_before_training(monkeypatch, capsys):
    monkeypatch.setattr(demo, "fit", lambda *_, **__: pytest.fail("it trained"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert demo.main([]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_an_interrupted_demo_says_so(monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "fit", interrupted)
    assert demo.main(["--limit", "2", "--out", str(tmp_path)]) == 130
    assert "not complete" in capsys.readouterr().err
