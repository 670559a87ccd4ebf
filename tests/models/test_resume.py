"""A run that is stopped or killed and then resumed equals the uninterrupted run bit for bit."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import models
from models import data
from models.train import main
from models.training import checkpoint
from models.training.recipe import recipe_for
from models.training.step import Trainer
from proof.where import ROOT

TIMING = ("images_per_second", "seconds")
SMALL = ["--option", "stages=((4,4),(4,4),(4,4))", "--option", "dense=(4,4)"]
ARGUMENTS = ["basecnn_2_cc", "--data", "digits", "--limit", "256", "--epochs", "5", *SMALL]
ARGUMENTS += ["--batch-size", "16", "--ema", "0.9"]


def lines(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def start(out, *more):
    command = [sys.executable, "-m", "models.train", *ARGUMENTS, "--out", str(out), *more]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def finish(process):
    """Waits for the run to end without an error."""
    output = process.communicate(timeout=120)
    assert process.returncode == 0, output


def place(folder):
    path = folder / "checkpoint.json"
    return tuple(json.loads(path.read_text())["place"]) if path.exists() else (-1, 0)


def stop_after(process, folder, where, number):
    """Sends the signal once the checkpoint is beyond (epoch, step)."""
    end = time.monotonic() + 60
    while place(folder) <= where and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(number)
    output = process.communicate(timeout=60)
    assert place(folder) > where, output
    return process.returncode, output[1]


@pytest.mark.slow
def test_a_stopped_and_killed_run_goes_on_exactly(tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    finish(start(whole))
    often = ("--save-every", "0")
    first = stop_after(start(part, *often), part, (0, 9), signal.SIGINT)
    assert first[0] == 130 and "go on with the same command and --resume" in first[1]
    assert place(part)[0] < 5, "it must stop before the end"
    second = stop_after(start(part, "--resume", *often), part, place(part), signal.SIGTERM)
    assert second[0] == 143 and "--resume" in second[1]
    third = stop_after(start(part, "--resume", *often), part, (2, 5), signal.SIGKILL)
    assert third[0] == -signal.SIGKILL and place(part)[0] < 5
    finish(start(part, "--resume"))

    assert lines(part) == lines(whole) and len(lines(part)) == 5
    states = [checkpoint.load(folder) for folder in (part, whole)]
    for kind in ("model", "average"):
        for name, value in states[0][kind].items():
            assert torch.equal(value, states[1][kind][name]), (kind, name)
    for name, state in states[0]["optimizer"]["state"].items():
        assert torch.equal(
            state["momentum_buffer"], states[1]["optimizer"]["state"][name]["momentum_buffer"]
        )
    names = {p.name for p in part.iterdir() if not p.name.startswith("tensors-")}
    assert names == {
        ".lock", "best", "checkpoint.json", "curves.png", "environment.json", "metrics.jsonl",
        "recipe.toml",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("aig_resnet110", {}),
        ("blockdrop_resnet110", {"stage": "pretrain"}),
        ("blockdrop_resnet110", {"stage": "curriculum", "steps_per_block": 2}),
    ],
)
def test_networks_that_draw_or_train_in_part_go_on_exactly(name, options, tmp_path):
    images = data.load("digits", limit=8)
    recipe = recipe_for(name, epochs=1, batch_size=4, ema=0.5)

    def trainer():
        return Trainer(models.create(name, depth=1, **options), images, recipe)

    torch.manual_seed(0)
    whole = trainer()
    batches = list(images.train_batches(whole.batches(), 4, 0, 0, "cpu"))
    whole.train_step(*batches[0], 4)
    checkpoint.save(tmp_path, {"run": "1", **whole.state({})})
    part = trainer()
    part.restore(checkpoint.load(tmp_path), tmp_path)
    for batch in batches[1:]:
        whole.train_step(*batch, 4)
        part.train_step(*batch, 4)
    states = [each.state({}) for each in (whole, part)]
    for kind in ("model", "average"):
        for key, value in states[0][kind].items():
            assert torch.equal(value, states[1][kind][key]), (kind, key)


def test_what_must_not_go_on(tmp_path, capsys):
    fast = [a if a != "5" else "1" for a in ARGUMENTS]
    fast[fast.index("256")] = "32"
    out = ["--out", str(tmp_path)]
    assert main([*fast, *out]) == 0
    path = tmp_path / "checkpoint.json"
    saved = path.read_bytes()
    for arguments, reason in (
        ((), "exists: resume it, or choose another folder"),
        (("--resume", "--seed", "1"), "seed must be 0"),
        (("--resume", "--routers", "eager"), "network must be"),
        (("--resume", "--limit", "16"), "images must be 32"),
        (("--resume", "--lr", "0.2"), "learning_rate must be 0.1"),
    ):
        assert main([*fast, *out, *arguments]) == 2
        assert reason in capsys.readouterr().err
    assert path.read_bytes() == saved
    for part in (
        ("model", "routers.0.w1"),
        ("average", "routers.0.w1"),
        ("optimizer", "state", "routers.0.w1"),
    ):
        record = json.loads(saved)
        *inner, key = part
        del functools.reduce(dict.__getitem__, inner, record)[key]
        path.write_text(json.dumps(record))
        assert main([*fast, *out, "--resume"]) == 2
        message = f"{path}: tensors-0.safetensors holds {'.'.join(part)}"
        assert message in capsys.readouterr().err
