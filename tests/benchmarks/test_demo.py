"""The demo runs, what it says follows from its figures, and its command line answers."""

import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys

import pytest
import torch

from benchmarks.demo import __main__ as demo
from benchmarks.demo import gates, timing
from models import data
from proof.where import ROOT

# A CPU torch comes without Triton, and the demo's installation without torchvision.
RUN = """
import sys
sys.modules["torchvision"] = sys.modules["triton"] = None
from benchmarks.demo.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_demo(tmp_path):
    arguments = ["--limit", "128", "--epochs", "1", "--rounds", "2", "--out", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "demo.json").read_text())
    assert all(len(times) == 2 for times in result["microseconds"].values())
    assert result["ratios"] == timing.compare(result["microseconds"])
    for kind in demo.KINDS:
        assert 0 < timing.share(result["microseconds"], kind) < 1
        assert result["accuracy"][kind] == result["runs"][kind][-1]["test_accuracy"]
    assert result["ablation"]["accuracy"] == pytest.approx(result["accuracy"]["fused"])
    announcement, _, rest = run.stdout.partition("fused routers\n")
    assert "about two minutes on two cores" in announcement and "MB" in announcement
    for part in demo.PARTS:
        assert re.search(rf"^{part}: +{re.escape(timing.in_words(result['ratios'][part]))}$",
                         rest, re.MULTILINE)  # fmt: skip
    assert all(line in rest for line in gates.lines(result["ablation"]))
    assert f"picture:  {tmp_path / 'demo.png'}" in rest
    png = (tmp_path / "demo.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and width > 800 and height > 800
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json", "demo.png"]


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.1, 1.2, 1.3, 1.2, 1.1], "faster"),
        ([0.9, 1.2, 1.3, 1.2, 1.1], "faster"),  # one round in five is within the fifth left out
        ([0.9, 0.9, 1.3, 1.2, 1.1], "not apart"),
        ([1.0, 1.0, 1.0], "not apart"),
        ([1.004, 1.003, 1.004], "not apart"),  # less than what is printed
        ([0.9, 0.8, 0.9, 0.7, 1.1], "slower"),
    ],
)
def test_the_verdict_follows_from_the_rounds(ratios, verdict):
    times = {f"fused {part}": [100.0] * len(ratios) for part in timing.PARTS}
    times |= {f"eager {part}": [100.0 * ratio for ratio in ratios] for part in timing.PARTS}
    for part, ratio in timing.compare(times).items():
        assert timing.ratios(times, part) == pytest.approx(ratios)
        assert ratio["verdict"] == verdict
        assert (ratio["low"] <= 1 <= ratio["high"]) == (verdict == "not apart")
        assert verdict in timing.in_words(ratio)


def test_a_machine_that_slows_down_hides_no_difference():
    """Its times overlap, round by round the ratio does not: hence ratios of rounds."""
    slower = [1.0, 2.0, 3.0, 4.0, 5.0]
    times = {f"fused {part}": slower for part in timing.PARTS}
    times |= {f"eager {part}": [1.2 * one for one in slower] for part in timing.PARTS}
    assert {ratio["verdict"] for ratio in timing.compare(times).values()} == {"faster"}


def test_both_networks_start_from_the_same_weights_with_different_routers():
    images = data.load("digits", limit=8)
    fused, eager = (demo._build(kind, images, 3, "cpu") for kind in demo.KINDS)
    for (name, one), other in zip(fused.state_dict().items(), eager.state_dict().values()):
        assert torch.equal(one, other), name
    assert [type(r) for r in fused.routers] != [type(r) for r in eager.routers]
    x = data.normalise(images, images.train_x)
    torch.testing.assert_close(fused(x), eager(x), rtol=1e-4, atol=1e-4)


def test_gates_by_class_and_the_one_that_strays_most():
    labels = torch.tensor([0, 1, 0, 1])
    still, moving = torch.full((4, 1, 2), 0.5), torch.full((4, 2, 2), 0.5)
    moving[:, 1, 0] = torch.tensor([0.2, 0.6, 0.2, 0.6])
    assert torch.equal(gates.by_class(still, labels), torch.zeros(2, 1, 2))
    torch.testing.assert_close(
        gates.by_class(moving, labels)[:, :, 0], torch.tensor([[0, -0.2], [0, 0.2]])
    )
    assert gates.widest([still, moving]) == (1, 1)


def test_what_is_said_of_gates_follows_from_their_figures():
    assert gates.dependence([0.01, 0.02]) == "hardly depend on the image"
    assert gates.dependence([0.01, 0.2]) == "hardly depend on the image, but for router 2"
    assert gates.dependence([0.2, 0.1, 0.01]).endswith("but for routers 1, 2")
    assert gates.dependence([0.2, 0.1]) == "depend on the image"
    row = {"routers": "all", "rule": "mean", "accuracy": 0.9, "change": -0.02, "p": 0.00123}
    assert gates.worth({"contrasts": [row]}).endswith("-2.00 points, p = 0.0012")
    assert gates.worth({"contrasts": [{**row, "p": 1e-9}]}).endswith("points, p < 0.001")
    assert gates.worth({"contrasts": [{**row, "p": 0.4}]}).endswith("not apart, p = 0.4")


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
    arguments = ["--limit", "2", "--epochs", "1", "--rounds", "2", "--out", str(tmp_path)]
    assert demo.main(arguments) == status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "1"], "rounds must be at least 2, got 1"),
        (["--limit", "1"], "limit must be at least 2, got 1"),
        (["--epochs", "0"], "epochs must be positive, got 0"),
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


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_installs_the_torch_that_is_asked_for_and_says_what_it_takes():
    # `make test` hands what it was called with to every make below it.
    own = {name: os.environ[name] for name in os.environ.keys() - {"MAKEFLAGS", "TORCH"}}

    def printed(*arguments):
        command = ["make", "--dry-run", "--always-make", "PYTHON=python3", *arguments]
        made = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        return made.stdout.splitlines()

    lines = printed("demo", "TORCH=torch --index-url INDEX")
    assert "GB of disk space" in "\n".join(lines[: lines.index("python3 -m venv .venv")])
    installs = [line.partition(" -m pip install ")[2].strip() for line in lines if " pip " in line]
    # The index serves torch alone: nothing else is to come from it.
    assert [line for line in installs if "INDEX" in line] == ["torch --index-url INDEX"]
    assert not any("torchvision" in line for line in installs)
    assert any(line.endswith("-e '.[demo]'") for line in installs)
    assert any(line.endswith("pip install torch torchvision") for line in printed("install"))
