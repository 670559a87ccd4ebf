"""Processes of torchrun, srun, mpirun and mpiexec find each other, or say what is missing."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
import torch

from models.train import main
from models.training.parallel import LAUNCHERS, start
from proof.where import ROOT

TRAIN = ["basecnn_2_cc", "--data", "digits", "--limit", "16", "--epochs", "1", "--batch-size", "8"]
TRAIN += ["--option", "stages=((4,),(4,))", "--option", "dense=(4,4)"]
OURS = re.compile("SLURM_|OMPI_|PMI_|MPI_|MASTER_|TORCHELASTIC_|(RANK|WORLD_SIZE|LOCAL_RANK)$")
CLEAN = {key: value for key, value in os.environ.items() if not OURS.match(key)}


@pytest.fixture
def clean(monkeypatch):
    """An environment without any launcher's variables."""
    for name in os.environ.keys() - CLEAN.keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("MASTER_ADDR", "")  # so that it is restored, whatever is set
    monkeypatch.delenv("MASTER_ADDR")
    return monkeypatch


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return str(one.getsockname()[1])


def variables(launcher, rank):
    """The variables of process `rank` of two on this machine."""
    return dict(zip(LAUNCHERS[launcher], (str(rank), "2", str(rank))))


SLOW = [pytest.param(launcher, marks=pytest.mark.slow) for launcher in ("torchrun", "mpiexec")]


@pytest.mark.parametrize("launcher", ["srun", "mpirun", *SLOW])
def test_two_processes_of_each_launcher_train_together(launcher, tmp_path):
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    if launcher == "srun":
        place["SLURM_JOB_NODELIST"] = "localhost,other[3-4]"
        del place["MASTER_ADDR"]
    if launcher == "mpirun":  # in a batch job, whose variables are one process's
        place |= {"SLURM_PROCID": "0", "SLURM_NTASKS": "5", "SLURM_LOCALID": "0"}
    command = [sys.executable, "-m", "models.train", *TRAIN, "--parallel", "ddp"]
    processes = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path / "run")], cwd=ROOT, text=True,
            env={**CLEAN, **place, **variables(launcher, rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("test accuracy" in out for out, _ in outputs) == 1, "only the first prints"
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "run/checkpoint.json").read_text())["place"] == [1, 0]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_what_a_launcher_lacks_is_asked_for_by_name(launcher, clean):
    for name, value in variables(launcher, 1).items():
        clean.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        with pytest.raises(
            ValueError, match=f"parallel under {launcher} needs the variable {name}"
        ):
            start("ddp", "cpu")
        clean.setenv(name, "localhost")
    clean.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ValueError, match=f"parallel must be one of ddp, fsdp under {launcher}"):
        start(None, "cpu")
    clean.setenv(LAUNCHERS[launcher][0], "one")
    with pytest.raises(ValueError, match=f"{LAUNCHERS[launcher][0]} must be a number, got 'one'"):
        start("ddp", "cpu")


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node7", "node7"), ("a-1,b", "a-1"), ("node[003-007,9],x", "node003"), ("n[1,4-5]", "n1")],
)
def test_the_first_host_of_a_list_of_nodes(nodes, host, clean):
    for name, value in {**variables("srun", 1), "SLURM_STEP_NODELIST": nodes}.items():
        clean.setenv(name, value)
    with pytest.raises(ValueError, match="needs the variable MASTER_PORT"):
        start("ddp", "cpu")
    assert os.environ["MASTER_ADDR"] == host


@pytest.mark.parametrize("nodes", ["", "n[1-2]m[3-4]", "n[1-2]-fast"])
def test_lists_of_nodes_that_are_not_plain_are_asked_for(nodes, clean):
    for name, value in {**variables("srun", 1), "SLURM_STEP_NODELIST": nodes}.items():
        clean.setenv(name, value)
    with pytest.raises(ValueError, match="needs the variable MASTER_ADDR"):
        start("ddp", "cpu")


def test_one_task_or_a_batch_script_trains_alone(clean):
    assert start(None, "cpu").world == 1
    for name, value in variables("srun", 0).items():
        clean.setenv(name, value)
    assert start(None, "cpu").world == 1  # a script that has two tasks, and started none yet
    clean.setenv("SLURM_STEP_NUM_TASKS", "1")
    clean.setenv("SLURM_NTASKS", "1")
    assert start(None, "cpu").world == 1
    assert not torch.distributed.is_initialized()


def test_processes_that_do_not_meet_are_an_error_with_the_place(clean, capsys, tmp_path):
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        for name, value in {**variables("torchrun", 0), **place}.items():
            clean.setenv(name, value)
        assert main([*TRAIN, "--parallel", "ddp", "--out", str(tmp_path / "run")]) == 2
    assert f"the processes do not meet at localhost:{port}" in capsys.readouterr().err


def test_kinds_need_a_launcher(clean, capsys):
    assert main(["highway", "--data", "digits", "--limit", "4", "--parallel", "ddp"]) == 2
    message = "parallel ddp needs several processes: torchrun --nproc-per-node N"
    assert message in capsys.readouterr().err
    assert not torch.distributed.is_initialized()
