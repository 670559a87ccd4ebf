"""Runs cannot spoil each other: one training at a time in a folder, and nothing of killed saves."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from models import compare, routing
from models.train import main
from models.training import checkpoint, files, locks
from models.training.files import sweep, write_text, write_whole
from models.training.locks import hold, locked
from models.training.parallel import Processes
from models.training.runs import Run
from proof.where import ROOT

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = ["--option", "stages=((4,),(4,))", "--option", "dense=(4,4)"]
TRAIN = ["basecnn_2_cc", "--data", "digits", "--limit", "32", "--epochs", "1", *SMALL]

# Holds the lock of a folder until its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from models.training.locks import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has locked the folder `tmp_path / "run"`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == b"locked\n"
        yield process
        process.kill()


def test_a_second_training_is_refused_by_name(tmp_path, holder, capsys):
    out = tmp_path / "run"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main([*TRAIN, "--out", str(out)]) == 2
    assert (
        f"{out} is in use by process {holder.pid} on " in (error := capsys.readouterr().err)
        and "wait until that ends, stop it, or choose another folder" in error
    )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    holder.kill()  # the kernel lets go of the lock, and what its file says is no hindrance
    holder.wait()
    assert main([*TRAIN, "--out", str(out)]) == 0
    assert main([*TRAIN, "--out", str(out), "--resume"]) == 0


def test_the_lock_is_held_before_the_checkpoint_is_looked_at(tmp_path, holder, capsys):
    """Also what stands in the folder is not judged while another writes it."""
    (tmp_path / "run" / "checkpoint.json").write_text("{")
    for more in ([], ["--resume"]):
        assert main([*TRAIN, "--out", str(tmp_path / "run"), *more]) == 2
        assert "is in use by" in capsys.readouterr().err


def test_all_processes_are_refused_alike(tmp_path, holder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    arguments = ["-m", "models.train", *TRAIN, "--parallel", "ddp", "--out", str(tmp_path / "run")]
    result = subprocess.run(
        [*command, "2", *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert result.returncode != 0
    assert result.stderr.count(f"error: {tmp_path / 'run'} is in use by process {holder.pid}") == 2


def test_what_fails_in_the_first_process_is_raised_in_all(tmp_path):
    class Second(Processes):
        def gather(self, value):
            return [OSError("the disk is full"), value]

    run = Run(tmp_path / "run", Second(rank=1, world=2))
    for act in (run.__enter__, lambda: run.save({}), lambda: run.note([])):
        with pytest.raises(OSError, match="the disk is full"):
            act()
    assert not (tmp_path / "run").exists()


# Locks a folder, forks a child that lives until its standard input ends, and waits.
FORKS = """
import os, signal, sys
from pathlib import Path
from models.training.locks import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        print("forked", flush=True)
        os.read(0, 1)
        os._exit(0)
    signal.pause()
"""


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """A process that reads images may live on for a while after the training was killed."""
    with subprocess.Popen(
        [sys.executable, "-c", FORKS, str(tmp_path)], cwd=ROOT, env=ENVIRONMENT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"forked\n"
        process.kill()
        process.wait()
        with locked(tmp_path):
            process.stdin.close()  # ends the child, which lived until now


@pytest.mark.parametrize("reason", ["system", "file system"])
def test_where_there_are_no_locks_a_line_says_so(reason, tmp_path, monkeypatch, capsys):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if reason == "system":
        monkeypatch.setattr(locks, "fcntl", None)
        expected = "this system has no flock"
    else:
        monkeypatch.setattr(locks.fcntl, "flock", refuse)
        expected = "its file system has no locks: No locks available"
    left = tmp_path / ".mpkernels-writing-x"
    left.mkdir()
    with locked(tmp_path), locked(tmp_path):
        sweep(tmp_path)
        write_text(tmp_path / "a.txt", "a")
    assert capsys.readouterr().err.count(f"is not locked ({expected}): start nothing else") == 2
    assert left.exists()  # nothing says that its writer is dead


def test_comparisons_and_the_experiment_keep_trials_apart(tmp_path, capsys):
    """A trial is more than its training: what follows it is locked too."""
    small = ["--data", "digits", "--scale", "0.05", "--epochs", "1", "--out", str(tmp_path)]
    for command, folder, more in (
        (compare, "basecnn", ["--suite", "table2", "--rows", "basecnn", "--trials", "1"]),
        (routing, "basecnn_2_cc-linear", ["--networks", "basecnn_2_cc", "--seeds", "1"]),
    ):
        with locked(tmp_path / folder):
            assert command.main([*small, *more]) == 2
        assert f"{tmp_path / folder} is in use by process {os.getpid()}" in capsys.readouterr().err
        (tmp_path / "plan.json").unlink()


def test_the_default_folder_names_the_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seven.toml").write_text("seed = 7\nepochs = 1\n")
    assert main(TRAIN) == 0
    assert main([*TRAIN, "--seed", "3"]) == 0
    assert main([*TRAIN, "--recipe", "seven.toml"]) == 0
    names = [f"basecnn_2_cc-digits-seed{seed}" for seed in (0, 3, 7)]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names
    said = capsys.readouterr().out
    assert all(f"results in runs/{name}\n" in said for name in names)


def test_a_run_has_a_name_of_its_own_that_it_keeps(tmp_path):
    names = []
    for at in ("a", "a", "b"):
        resume = ["--resume"] if (tmp_path / at).exists() else []
        assert main([*TRAIN, "--out", str(tmp_path / at), *resume]) == 0
        held = checkpoint.load(tmp_path / at)["run"]
        assert json.loads((tmp_path / at / "environment.json").read_text())["run"] == held
        names.append(held)
    assert names[0] == names[1] != names[2]


def test_what_killed_writers_left_goes_with_the_next_write_and_the_next_start(tmp_path):
    left = tmp_path / ".mpkernels-writing-dead"
    left.mkdir()
    (left / "tensors-3.safetensors").write_bytes(b"part")
    living = tmp_path / ".mpkernels-writing-living"
    living.mkdir()
    with hold(living / "lock"):
        write_text(tmp_path / "any.txt", "any")
        assert not left.exists() and living.exists()
    left.mkdir()
    (tmp_path / "tensors-9.safetensors").write_bytes(b"whole, but no checkpoint names it")
    assert main([*TRAIN, "--out", str(tmp_path)]) == 0
    left.mkdir()
    (tmp_path / "best" / left.name).mkdir()
    for folder in (tmp_path, tmp_path / "best"):
        (folder / "tensors-9.safetensors").write_bytes(b"whole, but no checkpoint names it")
    assert main([*TRAIN, "--out", str(tmp_path), "--resume"]) == 0
    best = {path.name for path in (tmp_path / "best").iterdir()}
    assert best == {"checkpoint.json", "tensors-0.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock", "any.txt", "best", "checkpoint.json", "curves.png", "environment.json",
        "metrics.jsonl", "recipe.toml", "tensors-0.safetensors",
    }  # fmt: skip


def test_a_writer_that_is_swept_away_before_its_lock_begins_again(tmp_path, monkeypatch):
    made = []
    make = files.tempfile.mkdtemp

    def made_and_swept(**options):
        made.append(make(**options))
        if len(made) == 1:
            sweep(tmp_path)
        return made[-1]

    monkeypatch.setattr(files.tempfile, "mkdtemp", made_and_swept)
    write_text(tmp_path / "a.txt", "a")
    assert len(made) == 2 and [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    def fails(to):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"a\.txt cannot be written: .*No space left"):
        write_whole(tmp_path / "a.txt", fails)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["nan", "-1"])
def test_seconds_between_saves(value, tmp_path, capsys):
    assert main([*TRAIN, "--out", str(tmp_path / "run"), "--save-every", value]) == 2
    assert "save_every must be seconds from 0 on, got" in capsys.readouterr().err


def save_on_and_on(folder, said):
    """Begins a run, says what is there, and saves checkpoints until it is killed."""
    with locked(folder):
        sweep(folder)
        checkpoint.tidy(folder)
        names = sorted(path.name for path in folder.iterdir())
        os.write(said, f"{names}\n".encode())
        at = checkpoint.load(folder)["options"]["at"] + 1 if len(names) > 1 else 0
        while True:
            state = {
                "run": "1", "options": {"at": at}, "model": {"w": torch.full((200_000,), at)},
                "optimizer": {"state": {}, "param_groups": []}, "average": None, "scaler": {},
                "place": [0, 0], "seen": [0, 0, 0], "metrics": [],
            }  # fmt: skip
            checkpoint.save(folder, state)
            os.write(said, f"{at}\n".encode())
            at += 1


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_hundred_kills_lose_nothing_and_leave_nothing(tmp_path):
    chance, last, leftovers = random.Random(0), -1, 0
    for _ in range(100):
        read, said = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                save_on_and_on(tmp_path, said)
            finally:
                os._exit(1)
        os.close(said)
        with os.fdopen(read) as lines:
            found = lines.readline()
            lines.readline()  # a first checkpoint is saved
            time.sleep(chance.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
            told = lines.read().split()
        held = [] if last < 0 else ["checkpoint.json", f"tensors-{last}.safetensors"]
        assert found == f"{['.lock', *held]}\n"
        state = checkpoint.load(tmp_path)
        last = state["options"]["at"]
        assert last >= int(told[-1] if told else 0) and (state["model"]["w"] == last).all()
        leftovers += len(list(tmp_path.iterdir())) > 3
    assert leftovers > 20, "hardly a kill came within a save"
