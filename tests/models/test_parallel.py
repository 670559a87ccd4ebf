"""Several processes train as one with the same global batch; a killed one starts again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from models import data
from models.networks.skipping import Draws
from models.training import checkpoint, weights
from models.training.step import evaluate
from proof.where import ROOT

# Batch norm would depend on a process's part of the batch, so the network has none. With 70 images
# the last batch has parts of different sizes.
ARGUMENTS = [
    "-m",
    "models.train",
    "highway",
    "--option",
    "stages=((8,8),(8,8))",
    "--data",
    "digits",
]
ARGUMENTS += ["--limit", "70", "--epochs", "2", "--batch-size", "32", "--lr", "0.05"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*command):
    result = subprocess.run(
        command, cwd=ROOT, env=ALONE, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(one, other):
    """Asserts that runs agree up to the order of sums of a few thousand float32 terms."""
    for a, b in zip(lines(one), lines(other), strict=True):
        for name in ("train_loss", "test_loss"):
            assert abs(a[name] - b[name]) <= 2**-24 * 1e3 * b[name]
        for name in ("train_accuracy", "test_accuracy"):
            assert a[name] == b[name]
    states = [checkpoint.load(folder)["model"] for folder in (one, other)]
    for name, value in states[0].items():
        difference = (value - states[1][name]).abs().max()
        assert difference <= 2**-24 * 1e3 * states[1][name].abs().max() + 1e-7, name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run(sys.executable, *ARGUMENTS, "--out", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_as_one(kind, alone, tmp_path):
    result = run(*TWO, *ARGUMENTS, "--parallel", kind, "--out", tmp_path)
    assert result.stdout.count("test accuracy") == 1, "only the first process prints"
    same(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_parts_of_batches_and_another_number_of_processes(kind, alone, tmp_path):
    """Batches accumulate over two parts, and the second epoch runs on one process."""
    arguments = [*ARGUMENTS, "--accumulate", "2", "--out", tmp_path]
    process = subprocess.Popen(
        [*TWO, *arguments, "--parallel", kind, "--save-every", "0"], cwd=ROOT, env=ALONE
    )
    end = time.monotonic() + 120
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    run(sys.executable, *arguments, "--resume")
    same(tmp_path, alone)


@pytest.mark.slow
def test_a_killed_process_starts_again_from_the_last_checkpoint(alone, tmp_path):
    command = [*TWO, "--max-restarts", "1", *ARGUMENTS, "--parallel", "ddp", "--save-every", "0"]
    process = subprocess.Popen([*command, "--out", tmp_path], cwd=ROOT, env=ALONE)
    end = time.monotonic() + 120
    while not (tmp_path / "checkpoint.json").exists() and time.monotonic() < end:
        time.sleep(0.01)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    same(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_what_is_evaluated_is_what_the_checkpoint_holds(kind, tmp_path):
    """Each process has its own batch norm statistics until one network is evaluated."""
    arguments = [*ARGUMENTS, "--option", "dense=(4,4)", "--batch-size", "8", "--lr", "0.2"]
    arguments[2] = "basecnn_2_cc"
    run(*TWO, *arguments, "--parallel", kind, "--out", tmp_path)
    network, record = weights.load_network(tmp_path)
    loss, accuracy, _ = evaluate(network, data.load("digits", limit=70))
    assert abs(record["metrics"][-1]["test_loss"] - loss) <= 2**-24 * 1e3 * loss
    assert record["metrics"][-1]["test_accuracy"] == accuracy


ONE_BAD = """
import sys, torch, models
from models import data
from models.training import parallel
from models.training.recipe import recipe_for
from models.training import fit

processes = parallel.start(sys.argv[1], "cpu")
images = data.load("digits", limit=24)

class Bad:
    def __getattr__(self, name):
        return getattr(images, name)

    def train_batches(self, *arguments):
        for at, (x, y) in enumerate(images.train_batches(*arguments)):
            if at == processes.rank == 1:
                x[0, 0, 0, 0] = float("nan")
            yield x, y

model = models.create("basecnn_2_cc", stages=((4,), (4,)), dense=(4, 4))
try:
    fit(model, Bad(), recipe_for("basecnn", epochs=1, batch_size=8), processes=processes)
except FloatingPointError as error:
    sys.stdout.write(f"process {processes.rank} {error}\\n")  # in one piece: both have one pipe
parallel.wait()
parallel.finish()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_all_processes_stop_where_one_has_a_loss_that_is_not_finite(kind, tmp_path):
    (tmp_path / "bad.py").write_text(ONE_BAD)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [*TWO, tmp_path / "bad.py", kind], env={**ALONE, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for rank in range(2):
        assert (
            f"process {rank} the loss is not finite in epoch 0, step 1: the images" in result.stdout
        )


@pytest.mark.slow
def test_a_network_trained_in_part_trains_on_two_processes(tmp_path):
    arguments = ["-m", "models.train", "blockdrop_resnet110", "--option", "depth=1"]
    arguments += ["--option", "stage=pretrain", "--data", "digits", "--limit", "24"]
    run(*TWO, *arguments, "--epochs", "1", "--batch-size", "8", "--parallel", "ddp",
        "--out", tmp_path)  # fmt: skip
    assert len(lines(tmp_path)) == 1


def test_processes_draw_different_numbers(monkeypatch):
    draws, numbers = Draws(), []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        draws.drawn = 0
        numbers.append(draws(8, device="cpu"))
    monkeypatch.undo()
    draws.drawn = 0
    assert torch.equal(numbers[0], draws(8, device="cpu")) and not (numbers[0] == numbers[1]).any()
