"""`python -m mpkernels` and `explain`; the self-test finds broken kernels."""

import subprocess
import sys

import pytest
import torch

import mpkernels as mpk
from mpkernels import eager, report, selftest
from mpkernels.ops import backend, native

OUTSIDE_INTERPRETER = pytest.mark.skipif(
    backend.why_no_triton() is None and backend.triton_interprets(),
    reason="this process interprets Triton's kernels",
)


def entries():
    return dict(line.split(":", 1) for line in report.report().splitlines())


def test_report_names_what_is_there():
    found = {key: value.strip() for key, value in entries().items()}
    assert found["mpkernels"] == mpk.__version__
    assert found["torch"].split()[0] == torch.__version__
    assert found["eager on cpu"] == "works"
    assert found["library _C (CPU)"] == (native.why_no_cpu or "loaded")
    if native.why_no_cpu is None:
        assert found["native on cpu"] == "works"
        supported = found["CPU instructions supported"].split(", ")
        assert found["CPU instructions used"] == supported[-1]
        assert set(supported) <= set(found["CPU instructions compiled"].split(", "))
    if not torch.cuda.is_available():
        assert found["triton on cuda"].startswith("no: ")


def test_report_is_aligned():
    starts = {
        len(line) - len(line.split(":", 1)[1].lstrip()) for line in report.report().splitlines()
    }
    assert len(starts) == 1


def test_report_without_anything_built(monkeypatch):
    def no_info():
        return {}, "not there"

    monkeypatch.setattr(report, "_build_info", no_info)
    monkeypatch.setattr(native, "build_record", dict)
    monkeypatch.setattr(native, "why_no_cpu", "_C.so is not there")
    found = entries()
    assert "no build.json" in found["built"]
    assert found["native on cpu"].strip() == "no: _C.so is not there"


@OUTSIDE_INTERPRETER
def test_command_passes_here():
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", "mpkernels"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    passed = [line for line in done.stdout.splitlines() if line.startswith("self-test passed: ")]
    for name, reason in (("native on cpu", native.why_no_cpu), ("eager on cpu", None)):
        assert len([line for line in passed if name in line]) == (0 if reason else 4)
    if backend.why_no_triton() is None:
        assert len([line for line in passed if "triton" in line]) == 4


def test_report_of_a_failed_build(monkeypatch):
    reason = "the C++ compiler c++ was not found"
    record = {
        "torch": "2.11.0",
        "torch_minimum": "2.11",
        "instruction_sets": ["x86_64"],
        "missing": {"_C": reason, "_build": reason},
    }
    monkeypatch.setattr(report, "_build_info", lambda: ({}, reason))
    monkeypatch.setattr(native, "build_record", lambda: record)
    monkeypatch.setattr(native, "why_no_cpu", reason)
    found = {key: value.strip() for key, value in entries().items()}
    assert found["built against torch"] == "2.11.0"
    assert found["CPU instructions compiled"] == found["CPU instructions used"] == "none"
    assert found["compiler"] == f"unknown: no _build module ({reason})"
    assert found["module _build"] == found["library _C (CPU)"] == reason


def test_self_test_of_a_backend_that_cannot_run_fails(monkeypatch, capsys):
    monkeypatch.setattr(native, "why_no_cpu", "_C.so is not there")
    monkeypatch.setattr(native, "why_no_cuda", "_C_cuda.so is not there")
    assert not selftest.run(["native"])
    assert "FAILED" in capsys.readouterr().out


def softmax_over_inputs(xs, w1, b1, w2, b2):
    gates = eager.gate(xs, w1, b1, w2, b2)
    return (gates.log() * 1.001).softmax(1).to(gates.dtype)


def pooled_off_by_a_thousandth(xs, *parameters):
    return eager.gate([x * (1 + 1e-3) for x in xs], *parameters)


def without_gradient_through_gates(xs, *parameters):
    gates = eager.gate(xs, *parameters)
    return eager.mix(xs, gates.detach()), gates


def rounded_too_early(xs, gates):
    return eager.mix(xs, gates.to(torch.bfloat16).float())


@pytest.mark.parametrize(
    "operator, broken",
    [
        ("gate", softmax_over_inputs),
        ("gate", pooled_off_by_a_thousandth),
        ("cross_connect", without_gradient_through_gates),
        ("mix", rounded_too_early),
    ],
)
def test_self_test_finds_a_broken_kernel(operator, broken, monkeypatch):
    problem = selftest.problems()[0]
    assert selftest.largest_error(operator, problem, "cpu") <= 1
    monkeypatch.setattr(selftest.functional, operator, broken)
    assert selftest.largest_error(operator, problem, "cpu") > 1
