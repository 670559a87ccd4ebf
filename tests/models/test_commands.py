"""What every command does with bad input, interruptions, warnings and readers that leave."""

import argparse
import os
import signal
import subprocess
import sys
import warnings

import pytest

from models.cli import run
from models.data import DataMissing
from models.training.loop import Interrupted
from proof.where import ROOT


def ended(work, stopped=""):
    return run(argparse.ArgumentParser(), [], work, stopped)


def raising(error):
    def work(options):
        raise error

    return work


@pytest.mark.parametrize(
    "error, status, text",
    [
        (ValueError("wrong"), 2, "error: wrong\n"),
        (DataMissing("no images"), 2, "error: no images\n"),
        (FileNotFoundError("no file"), 2, "error: no file\n"),
        (FloatingPointError("infinite"), 2, "error: infinite\n"),
        (KeyboardInterrupt(), 130, "\nthe same command goes on\n"),
        (Interrupted(signal.SIGINT), 130, "\nthe same command goes on\n"),
        (Interrupted(signal.SIGTERM), 143, "\nthe same command goes on\n"),
    ],
)
def test_how_a_command_ends(error, status, text, capsys):
    assert ended(raising(error), "the same command goes on") == status
    assert capsys.readouterr().err == text


def test_a_fault_of_the_program_is_not_called_bad_input():
    with pytest.raises(ZeroDivisionError):
        ended(raising(ZeroDivisionError()))


def test_a_warning_is_a_line(capsys):
    def work(options):
        warnings.simplefilter("always")
        warnings.warn("two layers start anew", stacklevel=1)
        return 3

    assert ended(work) == 3
    assert capsys.readouterr().err == "warning: two layers start anew\n"


def test_another_pipe_that_breaks_is_an_error():
    with pytest.raises(BrokenPipeError):
        ended(raising(BrokenPipeError()))


def test_a_process_may_have_no_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert ended(lambda options: print("unseen")) == 0


@pytest.mark.parametrize("words", ["mpkernels table", "mpkernels.models.table", "mpkernels report"])
def test_a_reader_that_has_read_enough_is_no_error(words):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        command = [sys.executable, "-m", *words.split()]
        result = subprocess.run(
            command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, encoding="utf-8"
        )
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")
