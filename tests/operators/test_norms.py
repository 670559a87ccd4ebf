"""Batch norms fold only where nobody can tell; elsewhere their own forward runs, as in eager."""

import re
import types

import pytest
import torch
from torch import nn
from torch.nn.modules import module as module_of_torch

import mpkernels as mpk
from mpkernels.eager import norms as norms_of_routers
from mpkernels.fold import why_not_folded
from proof.problems.cross_predictions import F64, assert_same, build, dispatched_by, maps
from proof.problems.norm_changes import BATCH_NORMS, CHANGES

KINDS = pytest.mark.parametrize("kind", BATCH_NORMS)


def outcome(router, xs):
    """Outputs, gradients and statistics, or the error."""
    xs = [x.detach().requires_grad_() for x in xs]
    try:
        ys, gates = router(xs, return_gates=True)
    except (ValueError, RuntimeError) as error:
        return type(error)
    loss = sum((y * torch.linspace(-1, 2, y.numel()).view(y.shape)).sum() for y in ys)
    leaves = [*xs, *(p for p in router.parameters() if p.requires_grad)]
    grads = torch.autograd.grad(loss + gates.pow(3).sum(), leaves, allow_unused=True)
    grads = [torch.zeros(()) if g is None else g for g in grads]
    return [*ys, gates, *grads, *(b.double() for b in router.buffers())]


def assert_equal_outcomes(actual, expected):
    if isinstance(expected, type):
        assert actual is expected
        return
    plain = [[t.detach().as_subclass(torch.Tensor) for t in ts] for ts in (actual, expected)]
    for a, e in zip(*plain, strict=True):
        assert a.shape == e.shape
        assert (a - e).abs().max() <= 2**-53 * 1e6 * (e.abs().max() + 1)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("change", CHANGES)
@KINDS
def test_a_changed_norm_gives_what_eager_gives(kind, change, training):
    outcomes = []
    for module in (mpk, mpk.eager, "unfused"):
        torch.manual_seed(1)
        router = build(kind, 2, 2, mpk if module == "unfused" else module, batch_norm=True,
                       dtype=F64).train(training)  # fmt: skip
        CHANGES[change][0](router)
        router = mpk.unfuse(router) if module == "unfused" else router
        torch.manual_seed(2)
        outcomes.append(outcome(router, maps(kind, 2)))
    assert_equal_outcomes(outcomes[0], outcomes[1])
    assert_equal_outcomes(outcomes[2], outcomes[1])


@pytest.mark.parametrize("change", CHANGES)
@KINDS
def test_what_is_folded_and_what_explain_says(kind, change):
    change_norms, folded = CHANGES[change]
    router = build(kind, 2, 2, batch_norm=True, dtype=F64).eval()
    change_norms(router)
    reason = why_not_folded(router)
    assert (reason is None) == folded, reason
    explanation = str(mpk.explain(router, maps(kind, 2)))
    assert ("batch norms are folded into" in explanation) == folded
    assert folded or f"not folded: {reason}" in explanation
    if folded:
        with torch.no_grad():
            assert dispatched_by(router, maps(kind, 2)).count("batch_norm") == 0


@KINDS
def test_reasons_name_the_norm_and_what_it_has(kind):
    name = BATCH_NORMS[kind].__name__
    messages = {
        "subclass": r"norms\[0\] is a Act[12]d$",
        "forward_of_an_instance": rf"norms\[1\] has another forward than {name}$",
        "pre_hook": r"norms\[1\] has hooks to run$",
        "plain_weight": r"norms\[0\] has a weight that is neither parameter nor buffer$",
        "tagged_weight": r"norms\[0\] has a weight that is a (Tagged|Parameter)$",
        "parametrized": rf"norms\[0\] is a Parametrized{name}$",
        "learned_statistics": r"norms\[0\] has statistics that require a gradient$",
        "of_another_dimension": r"norms\[0\] is a BatchNorm[23]d$",
    }
    for change, message in messages.items():
        router = build(kind, 2, 2, batch_norm=True, dtype=F64).eval()
        CHANGES[change][0](router)
        assert re.match(message, why_not_folded(router)), (change, why_not_folded(router))


@pytest.mark.parametrize("step", ["forward", "_call_impl", "_check_input_dim", "__call__"])
@KINDS
def test_a_class_that_is_patched_after_import(kind, step, monkeypatch):
    router, xs = build(kind, 2, 2, batch_norm=True, dtype=F64).eval(), maps(kind, 2)
    calls, original = [], getattr(BATCH_NORMS[kind], step)

    def watched(self, *arguments):
        calls.append(self)
        return original(self, *arguments)

    assert why_not_folded(router) is None
    monkeypatch.setattr(BATCH_NORMS[kind], step, watched)
    assert "has another forward" in why_not_folded(router)
    actual = router(xs)
    assert len(calls) >= 2
    assert_same(actual, mpk.unfuse(router)(xs))


def test_a_class_that_was_patched_before_import():
    def patched(self, x):
        return x

    assert norms_of_routers._is_torchs(nn.BatchNorm2d.forward)
    assert not norms_of_routers._is_torchs(patched)
    assert set(norms_of_routers._OWN) == {
        nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    }  # fmt: skip


REGISTER = ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook")


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # of the router's own call
@pytest.mark.parametrize("name", REGISTER)
@KINDS
def test_hooks_of_all_modules(kind, name):
    router, xs = build(kind, 2, 2, batch_norm=True, dtype=F64).eval(), maps(kind, 2)
    modules = []
    handle = getattr(module_of_torch, f"register_module_{name}")(lambda m, *_: modules.append(m))
    try:
        assert why_not_folded(router).endswith("has hooks of all modules to run")
        outcome(router, xs)
        assert set(router.norms) <= set(modules)
    finally:
        handle.remove()
    assert why_not_folded(router) is None


@pytest.mark.parametrize("name", norms_of_routers._GLOBAL_HOOKS)
def test_without_a_private_name_nothing_is_folded(name, monkeypatch):
    router = build("linear", 2, 2, batch_norm=True, dtype=F64).eval()
    monkeypatch.setattr(norms_of_routers, "_module", types.SimpleNamespace(
        **{other: {} for other in norms_of_routers._GLOBAL_HOOKS if other != name}
    ))  # fmt: skip
    assert "hooks of all modules" in why_not_folded(router)


def test_a_number_of_norms_that_does_not_fit():
    for count in (1, 3):
        router = build("conv", 2, 2, batch_norm=True, dtype=F64).eval()
        router.norms = nn.ModuleList(nn.BatchNorm2d(5, dtype=F64) for _ in range(count)).eval()
        assert f"there are {count} norms for 2 outputs" in why_not_folded(router)
        xs = maps("conv", 2)
        actual = router(xs)
        assert_same(actual, mpk.unfuse(router)(xs))


@pytest.mark.parametrize("norm, router, folded", [
    (torch.float32, torch.float32, True), (torch.float32, torch.bfloat16, True),
    (torch.bfloat16, torch.bfloat16, True), (torch.float64, torch.float32, False),
    (torch.float16, torch.bfloat16, False), (torch.bfloat16, torch.float32, False),
])  # fmt: skip
def test_only_dtypes_that_batch_norm_takes_are_folded(norm, router, folded):
    module = build("linear", 2, 2, batch_norm=True, dtype=router).eval()
    module.norms.to(norm)
    assert (why_not_folded(module) is None) == folded
    xs = maps("linear", 2, router)
    try:
        expected = mpk.unfuse(module)(xs)
    except RuntimeError:
        expected = None
    if expected is None or not folded:
        try:
            actual = mpk.fuse(module)(xs)
        except RuntimeError:
            actual = None
        assert (actual is None) == (expected is None)


def test_what_a_hook_keeps_is_not_changed_by_the_relu():
    router, outputs = build("conv", 2, 2, batch_norm=True, dtype=F64), []
    router.norms[0].register_forward_hook(lambda m, x, y: outputs.append(y))
    router(maps("conv", 2))
    assert (outputs[0] < 0).any()
