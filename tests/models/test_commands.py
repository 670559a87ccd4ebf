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
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="a")
    return run(parser, [], work, stopped)


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
        (KeyboardInterrupt(), 130, ""),
        (Interrupted(signal.SIGINT), 130, "\nsaved in a\n"),
        (Interrupted(signal.SIGTERM), 143, "\nsaved in a\n"),
    ],
)
def test_how_a_command_ends(error, status, text, capsys):
    assert ended(raising(error), "saved in {out}") == status
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
