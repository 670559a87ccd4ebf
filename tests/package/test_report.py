"""`python -m mpkernels`: the report, and the outcome of its self-test."""

import subprocess
import sys

import pytest
import torch

import mpkernels as mpk
from mpkernels import report, selftest
from mpkernels.ops import backend, native

OUTSIDE_INTERPRETER = pytest.mark.skipif(
    backend.why_no_triton() is None and backend.triton_interprets(),
    reason="this process interprets Triton's kernels",
)


def entries():
    return dict(line.split(":", 1) for line in report.report().splitlines())


def test_report_names_what_is_there():
    values = {key: value.strip() for key, value in entries().items()}
    assert values["mpkernels"] == mpk.__version__
    assert values["torch"].split()[0] == torch.__version__
    assert values["eager on cpu"] == "works"
    assert values["library _C (CPU)"] == (native.why_no_cpu or "loaded")
    if native.why_no_cpu is None:
        assert values["native on cpu"] == "works"
        compiled = values["CPU instructions compiled"].split(", ")
        assert values["CPU instructions used"] in compiled
        assert values["compiler"] != "unknown" and "-O3" in values["compiler flags"]
    if not torch.cuda.is_available():
        assert values["triton on cuda"].startswith("no: ")


def test_report_is_aligned():
    starts = {
        len(line) - len(line.split(":", 1)[1].lstrip()) for line in report.report().splitlines()
    }
    assert len(starts) == 1


def test_report_without_anything_built(monkeypatch):
    monkeypatch.setattr(native, "build_record", dict)
    monkeypatch.setattr(native, "why_no_cpu", "_C.so is not there")
    values = entries()
    assert "no build.json" in values["built"]
    assert values["native on cpu"].strip() == "no: _C.so is not there"


@OUTSIDE_INTERPRETER
def test_command_passes_here():
    result = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", "mpkernels"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    passed = [line for line in result.stdout.splitlines() if line.startswith("self-test passed: ")]
    every = len(selftest.OPERATORS)
    for name, reason in (("native on cpu", native.why_no_cpu), ("eager on cpu", None)):
        assert len([line for line in passed if name in line]) == (0 if reason else every)
    interpreted = every if backend.why_no_interpreter() is None else 0
    assert len([line for line in passed if "triton" in line]) == interpreted


OLD_TRITON = "Triton 3.6.0's interpreter needs numpy below 2.4, found 2.4.0"


@pytest.mark.parametrize(
    "versions, reason",
    [(("3.6.0", "2.4.0"), OLD_TRITON), (("3.6.0", "2.3.5"), None), (("3.10.0", "2.5.2"), None)],
)
def test_old_interpreters_need_an_old_numpy(versions, reason, monkeypatch):
    modules = pytest.importorskip("triton"), pytest.importorskip("numpy")
    for module, version in zip(modules, versions):
        monkeypatch.setattr(module, "__version__", version)
    assert backend.why_no_interpreter() == reason


@OUTSIDE_INTERPRETER
def test_an_interpreter_that_cannot_run_is_named_and_fails_nothing(monkeypatch, capsys):
    pytest.importorskip("triton")
    monkeypatch.setattr(backend, "why_no_gpu", lambda: "torch finds no GPU")
    monkeypatch.setattr(backend, "why_no_interpreter", lambda: OLD_TRITON)
    assert selftest.run(["eager", "triton"])
    assert f"self-test: triton: not tested: {OLD_TRITON}\n" in capsys.readouterr().out
    assert not selftest.run(["triton"])


def test_a_forced_interpreter_that_cannot_run_says_why(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(backend, "triton_interprets", lambda: True)
    monkeypatch.setattr(backend, "why_no_interpreter", lambda: OLD_TRITON)
    assert backend.why_not("mix", "triton", "cpu") == OLD_TRITON
    with mpk.use_backend("triton"), pytest.raises(RuntimeError, match="needs numpy below 2.4"):
        mpk.functional.mix([torch.ones(2, 3)], torch.ones(2, 1, 1))


def test_report_of_a_failed_build(monkeypatch):
    reason = "the C++ compiler c++ was not found"
    record = {
        "torch": "2.11.0",
        "torch_minimum": "2.11",
        "instruction_sets": ["x86_64"],
        "missing": {"_C": reason},
    }
    monkeypatch.setattr(native, "build_record", lambda: record)
    monkeypatch.setattr(native, "why_no_cpu", reason)
    values = {key: value.strip() for key, value in entries().items()}
    assert values["built against torch"] == "2.11.0"
    assert values["CPU instructions compiled"] == values["CPU instructions used"] == "none"
    assert values["compiler"] == "unknown"
    assert values["library _C (CPU)"] == reason


def test_self_test_of_a_backend_that_cannot_run_fails(monkeypatch, capsys):
    monkeypatch.setattr(native, "why_no_cpu", "_C.so is not there")
    monkeypatch.setattr(native, "why_no_cuda", "_C_cuda.so is not there")
    assert not selftest.run(["native"])
    assert "FAILED" in capsys.readouterr().out
