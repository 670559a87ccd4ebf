"""Every operator on every backend over the whole table, against float64 within derived bounds."""

import contextlib
from dataclasses import replace

import pytest
import torch

import mpkernels as mpk
from mpkernels.eager import gradients
from proof.checks import COMBINED, check_combine, check_cross_connect, check_gate, check_mix
from proof.problems.cases import CASES
from proof.where import INTERPRETED


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cross_connect(case, backend):
    check_cross_connect(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gate(case, backend):
    check_gate(case)


@pytest.mark.parametrize("by_channel", [False, True], ids=["by_sample", "by_channel"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_mix(case, by_channel, backend):
    check_mix(case, by_channel)


def _interpreted(case, kind):
    """What kinds leave out are branches of one kernel; its many tiles do not ask for the dtype."""
    if case.channels > 64 and case.dtype in (torch.float64, torch.float16):
        return False
    return kind == "folded_relu" or case.name in ("2_to_3", "w1_frozen", "w2_frozen")


KINDS = [
    pytest.param(case, kind, id=f"{case}-{kind}")
    for case in CASES
    for kind in COMBINED
    if not INTERPRETED or _interpreted(case, kind)
]


@pytest.mark.parametrize(("case", "kind"), KINDS)
def test_combine(case, kind, backend):
    if INTERPRETED and case.channels > 64:
        case = replace(case, channels=35)  # still several tiles of channels, in half the time
    check_combine(case, kind)


def test_the_wanted_kernel_ran(backend, monkeypatch):
    """A silent fallback to the definition would pass every comparison above."""
    called = []
    for module in (mpk.eager, gradients):
        original = module.cross_connect
        monkeypatch.setattr(
            module,
            "cross_connect",
            lambda *given, run=original: called.append("eager") or run(*given),
        )
    router = mpk.CrossConnect(4, 2, 2)
    with contextlib.ExitStack() as stack:
        if backend == "triton":
            from proof.launches import launched

            names = stack.enter_context(launched())
        ys = router([torch.randn(2, 4, 3, 3, requires_grad=True) for _ in range(2)])
        sum(y.sum() for y in ys).backward()
    assert len(called) == (2 if backend == "eager" else 0)
    if backend == "triton":
        assert names[:2] == ["resident_kernel", "resident_backward_kernel"]
    for name in ("cross_connect", "gate", "mix", "combine"):
        for each in (name, f"{name}_backward"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mpkernels::{each}", "CPU")
