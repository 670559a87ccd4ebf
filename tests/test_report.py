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


def maps(paths=2, channels=32, size=16, batch=8, **options):
    return [torch.empty(batch, channels, size, size, **options) for _ in range(paths)]


def test_explain_names_the_kernel_and_its_floor():
    router, one = mpk.CrossConnect(32, 2, 3), 4 * 8 * 32 * 16 * 16
    found = mpk.explain(router, maps(), device="cuda")
    if backend.why_no_triton() is None:
        assert (found.operator, found.backend, found.method) == (
            "cross_connect",
            "triton",
            "resident",
        )
        assert (found.forward.launches, found.backward.launches) == (1, 2)
        assert found.forward.moved == found.forward.floor and found.forward.again == 0
    assert found.forward.floor == (2 + 3) * one
    assert found.backward.floor == (2 + 3 + 2) * one
    here = mpk.explain(router, maps())
    assert here.backend == ("native" if native.why_no_cpu is None else "eager")
    if here.backend == "native":
        assert here.instruction_set == torch.ops.mpkernels.instruction_set("")
    assert here.operator in str(here) and here.backend in str(here)


@pytest.mark.skipif(backend.why_no_triton() is not None, reason="triton is not installed")
def test_explain_tells_why_a_sample_is_walked():
    router, xs = mpk.CrossConnect(64, 2, 2), maps(channels=64, size=56, device="meta")
    found = mpk.explain(router, xs, device="cuda")
    assert found.method == "split" and "groups of 19 samples stay in L2" in str(found)
    assert found.forward.launches == 2 and found.forward.again == 2 * 4 * 8 * 64 * 56 * 56
    assert "forward reads X twice" in str(found)
    narrow = mpk.CrossConnect(2048, 1, 2, hidden=16)
    found = mpk.explain(narrow, maps(1, 2048, 1, device="meta"), device="cuda")
    assert found.method == "split" and "w1 of one path" in str(found)


def test_explain_counts_copies():
    xs = maps()
    xs[1] = xs[1].transpose(2, 3)
    found = mpk.explain(mpk.CrossConnect(32, 2, 2), xs)
    if found.backend == "eager":
        pytest.skip("the eager definition copies nothing")
    assert found.forward.moved - found.forward.floor == 2 * xs[0].nbytes
    assert "xs[1] has strides" in str(found)
    xs[1] = maps()[0].contiguous(memory_format=torch.channels_last)
    found = mpk.explain(mpk.CrossConnect(32, 2, 2), xs)
    assert "another memory format" in str(found)
    assert found.backward.moved - found.backward.floor == 4 * xs[0].nbytes


def test_explain_says_what_was_forced():
    with mpk.use_backend("eager"):
        found = mpk.explain(mpk.CrossStitch(2), maps())
    assert (found.operator, found.backend) == ("mix", "eager")
    assert "use_backend('eager')" in str(found)
    with mpk.use_backend("native"):
        narrow = mpk.explain(mpk.CrossConnect(32, 2, 2), maps(), device="cuda")
        wide = mpk.explain(
            mpk.CrossConnect(2048, 2, 2), maps(channels=2048, size=56, device="meta"), device="cuda"
        )
    assert "RuntimeError" in str(wide)
    assert ("RuntimeError" in str(narrow)) == (native.why_no_cuda is not None)
    plain = mpk.explain(eager.CrossConnect(32, 2, 2), maps())
    assert plain.backend == "eager" and "mpkernels.fuse" in str(plain)


def test_explain_follows_autocast():
    router, xs = mpk.CrossConnect(32, 2, 2), maps()
    with torch.autocast("cpu", torch.bfloat16):
        found = mpk.explain(router, xs)
    assert found.forward.floor * 2 == mpk.explain(router, xs).forward.floor
    assert "autocast" in str(found)


def test_explain_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="router must be a CrossConnect or CrossStitch, got Linear"):
        mpk.explain(torch.nn.Linear(2, 2), maps())
    with pytest.raises(ValueError, match=r"w1 must be \[m, K, C\] = \[2, 16, 32\]"):
        mpk.explain(mpk.CrossConnect(7, 2, 2), maps())
