"""Every operator on every backend over the whole table, against float64 within derived bounds."""

import contextlib

import pytest
import torch

import mpkernels as mpk
from mpkernels.eager.functional import KINDS
from mpkernels.ops.cross_connect import cross_connect
from proof.checks import COMBINED, check_combine, check_cross_connect, check_gate, check_mix
from proof.problems.cases import CASES, for_the_interpreter
from proof.where import INTERPRETED

TABLE = for_the_interpreter(CASES) if INTERPRETED else CASES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", TABLE, ids=str)
def test_cross_connect(case, kind, backend):
    check_cross_connect(case, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", TABLE, ids=str)
def test_gate(case, kind, backend):
    check_gate(case, kind)


@pytest.mark.parametrize("by_channel", [False, True], ids=["by_sample", "by_channel"])
@pytest.mark.parametrize("case", TABLE, ids=str)
def test_mix(case, by_channel, backend):
    check_mix(case, by_channel)


def _kinds(case):
    """What kinds leave out are branches of Triton's one kernel."""
    every = not INTERPRETED or case.name in ("w1_frozen", "w2_frozen", "no_bias")
    return list(COMBINED) if every else ["folded_relu"]


@pytest.mark.parametrize(
    ("case", "kind"),
    [pytest.param(case, kind, id=f"{case}-{kind}") for case in TABLE for kind in _kinds(case)],
)
def test_combine(case, kind, backend):
    check_combine(case, kind)


def test_the_wanted_kernel_ran(backend, monkeypatch):
    """A silent fallback to the definition would pass every comparison above."""
    called = []
    for place, name in ((mpk.eager, "cross_connect"), (cross_connect, "_gradient")):
        original = getattr(place, name)
        monkeypatch.setattr(
            place,
            name,
            lambda *given, run=original, **named: called.append("eager") or run(*given, **named),
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
