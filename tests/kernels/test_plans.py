"""Launches from C++: what reaches the driver, recorded by an emulated libcuda, and the table."""

import json
import os
import subprocess
import sys

import pytest
import torch

import mpkernels as mpk
from mpkernels.ops import backend, native
from mpkernels.ops.record import path_of
from mpkernels.ops.schema import OPERATORS

pytest.importorskip("triton", reason="triton is not installed")
if native.why_no_cpu is not None:
    pytest.skip(native.why_no_cpu, allow_module_level=True)

from proof.emulated.checks import CHECKS, SLOW_CHECKS
from proof.emulated.driver import build
from proof.where import ROOT


def wrong_of(*names):
    """By check: what is wrong. An emulated driver stays for the rest of a process."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "proof.emulated", *names],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def wrong():
    return wrong_of()


@pytest.fixture
def emulated_libcuda(tmp_path):
    return build(tmp_path)


@pytest.mark.parametrize("check", CHECKS)
def test_launches_from_cpp(check, wrong):
    assert wrong[check] is None, wrong[check]


@pytest.mark.slow
@pytest.mark.parametrize("check", SLOW_CHECKS)
def test_all_launches_from_cpp(check):
    assert wrong_of(check) == {check: None}


@pytest.mark.parametrize("operator", OPERATORS)
def test_kernels_of_cuda_tensors_are_registered_from_cpp(operator):
    dump = torch._C._dispatch_dump(f"mpkernels::{operator}")
    (line,) = [line for line in dump.splitlines() if line.startswith("CUDA:")]
    assert "csrc/launches/register.cpp" in line


WITHOUT_PYTHON = """
import sys, torch
torch.ops.load_library(sys.argv[1])
torch.ops.mpkernels.emulate_driver(sys.argv[2])
try:
    torch.ops.mpkernels.mix([torch.ones(5, 3)], torch.ones(5, 1, 1))
except RuntimeError as error:
    print(error)
"""


def test_where_nothing_compiles_an_error_names_the_shapes(emulated_libcuda):
    """The library alone, without this package, is what a program without Python has."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYTHON, str(path_of("_C")), emulated_libcuda],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "mpkernels.mix: no kernel is known for tensors of [5, 3], [5, 1, 1]" in done.stdout


def raising(error):
    def kernel(*arguments):
        raise error

    return kernel


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("HIP out of memory. Tried to allocate 1 GiB"), KeyError("x")]
)
def test_what_python_raises_below_cpp_is_what_users_see(error, monkeypatch):
    monkeypatch.setattr(backend, "kernel_of", lambda *names: raising(error))
    with mpk.use_backend("eager"), pytest.raises(type(error)) as raised:
        mpk.functional.mix([torch.ones(2, 3)], torch.ones(2, 1, 1))
    assert raised.value is error
