"""What `explain` says is what happens: operators, backends, methods, copies, bytes and reasons."""

import re
import sys

import pytest
import torch

import mpkernels as mpk
from mpkernels import eager
from mpkernels.fold import why_not_folded
from mpkernels.ops import backend as table
from mpkernels.ops import native
from proof.explained import ROUTERS, Ran, Seen, conv, halves, maps, operators, vectors
from proof.where import BACKENDS, INTERPRETED

EXPLAIN = sys.modules["mpkernels.explain"]  # the name in the package is the function's
NO_TRITON = pytest.mark.skipif(table.why_no_triton() is not None, reason="triton is not installed")
NO_NATIVE = pytest.mark.skipif("native" not in BACKENDS, reason="this process interprets Triton")
EACH = pytest.mark.parametrize("kind", ROUTERS)


@EACH
def test_operators_are_those_that_run_in_their_order(kind, backend):
    build, inputs = ROUTERS[kind]
    router, xs = build(), inputs()
    explained = mpk.explain(router, xs)
    assert operators(explained) == Ran(router, xs).order
    assert (explained.router, explained.device) == (type(router).__name__, "cpu")
    assert all(name in str(explained) for name in [explained.router, *operators(explained)])


@EACH
def test_an_eager_router_runs_none_of_them_until_it_is_fused(kind):
    build, inputs = ROUTERS[kind]
    router, xs = build(eager), inputs()
    explained = mpk.explain(router, xs)
    assert {kernel.backend for kernel in explained.kernels} == {"eager"}
    assert "the router is eager; mpkernels.fuse(model) swaps in the fused one" in explained.notes
    assert not any("norms" in note for note in explained.notes)
    assert Ran(router, xs).order == []
    after = mpk.explain(mpk.fuse(router), xs)
    assert operators(after) == Ran(router, xs).order == operators(explained)
    assert [kernel.floor for kernel in after.kernels] == [k.floor for k in explained.kernels]
    assert not any("fuse" in note for note in after.notes)


def test_a_subclass_of_an_eager_router_stays_eager():
    class Own(eager.CrossConnect):
        pass

    with pytest.warns(UserWarning, match="Own is a subclass"):
        router = mpk.fuse(Own(4, 2, 2))
    assert "fuse(model) leaves subclasses alone" in str(mpk.explain(router, maps()))
    assert Ran(router, maps()).order == []


def backend_of(run, name):
    """Who served an operator, from what ran within it."""
    within = {part for operator, parts in run.operators if operator == name for part in parts}
    arithmetic = {"aten::mul", "aten::_softmax", "aten::_softmax_backward_data", "aten::relu"}
    return "eager" if arithmetic & within else "native"


@NO_NATIVE
@EACH
@pytest.mark.parametrize("forced", ["auto", "native", "eager"])
def test_the_backend_is_the_one_that_runs(forced, kind):
    build, inputs = ROUTERS[kind]
    router, xs = build(), inputs()
    with mpk.use_backend(forced):
        explained, run = mpk.explain(router, xs), Ran(router, xs)
    for kernel in explained.kernels:
        assert kernel.backend == backend_of(run, kernel.operator)
    assert (f"use_backend({forced!r}) is in force" in explained.notes) == (forced != "auto")


@pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")
@EACH
def test_triton_is_what_runs_in_the_interpreter(kind):
    from proof.launches import launched

    build, inputs = ROUTERS[kind]
    router, xs = build(), inputs()
    assert {kernel.backend for kernel in mpk.explain(router, xs).kernels} == {"native"}
    with mpk.use_backend("triton"), launched() as kernels:
        explained = mpk.explain(router, xs)
        assert kernels == [], "explain launches nothing"
        Ran(router, xs)
    assert len(kernels) >= len(explained.kernels)
    assert {kernel.backend for kernel in explained.kernels} == {"triton"}
    methods = {kernel.method for kernel in explained.kernels if "connect" in kernel.operator}
    assert all(any(name.startswith(method) for name in kernels) for method in methods)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes CPU tensors")
@NO_TRITON
def test_a_forced_backend_that_cannot_run_raises_what_is_said():
    router, xs = mpk.CrossConnect(4, 2, 2), maps()
    with mpk.use_backend("triton"):
        note = mpk.explain(router, xs).notes[1]
        what, reason = note.split(": ", 1)
        assert what == "RuntimeError from cross_connect and cross_connect_backward"
        with pytest.raises(RuntimeError, match=re.escape(reason)):
            router(xs)
    with mpk.use_backend("native"):
        said = mpk.explain(conv(), xs, device="cuda").notes
    for name in ("gate", "combine", "combine_backward", "gate_backward"):
        reason = table.why_not(name, "native", "cuda")
        assert any(re.match(f"RuntimeError from .*{name}.*{re.escape(reason)}$", n) for n in said)


@NO_NATIVE
def test_the_instruction_set_is_the_one_in_use():
    (forward, backward) = mpk.explain(mpk.CrossConnect(4, 2, 2), maps()).kernels
    assert forward.method == backward.method == torch.ops.mpkernels.instruction_set("")


def test_a_missing_library_is_the_reason(monkeypatch):
    """Held against the table, which tests/package/test_report.py holds against what works."""
    monkeypatch.setattr(native, "why_no_cpu", "no compiler")
    explained = mpk.explain(mpk.CrossConnect(4, 2, 2), maps())
    assert [kernel.backend for kernel in explained.kernels] == ["eager", "eager"]
    served = "the eager definition serves cross_connect and cross_connect_backward"
    assert explained.notes == (f"{served}: native cannot run: no compiler",)


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
@EACH
def test_each_kernel_and_reason_is_that_of_the_table(kind, device):
    build, inputs = ROUTERS[kind]
    explained = mpk.explain(build(), inputs(), device)
    for kernel in explained.kernels:
        backend, reason = table.chosen(kernel.operator, device)
        assert kernel.backend == backend
        assert reason is None or any(reason in note for note in explained.notes)
    missing = device == "cuda" and table.why_no_gpu()
    assert any("an H100 is assumed" in note for note in explained.notes) == bool(missing)


# Copies.


def other_format(x):
    return x.contiguous(memory_format=torch.channels_last)


def transposed(x):
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def every_second(x):
    return x.repeat(1, 1, 1, 2)[..., ::2]


def slice_of(x):
    return torch.cat([x, x], 1)[:, : x.shape[1]]


def strided_vector(x):
    return x.T.contiguous().T


CHANGES = [
    (kind, change)
    for kind, (_, inputs) in ROUTERS.items()
    for change in (
        [other_format, transposed, every_second, slice_of]
        if inputs is maps
        else [strided_vector, slice_of]
    )
]


@pytest.mark.parametrize("which", [[1]] if INTERPRETED else [[0], [1], [0, 1]], ids=str)
@pytest.mark.parametrize(("kind", "change"), CHANGES)
def test_copies_are_those_that_happen(kind, change, which, backend):
    """Beyond those that a kernel makes of parameters, and the eager definition of anything."""
    build, inputs = ROUTERS[kind]
    router, dense = build(), inputs()
    xs = [change(x) if i in which else x for i, x in enumerate(dense)]
    explained = mpk.explain(router, xs)
    copies = [kernel.copies for kernel in explained.kernels]
    if backend == "eager":
        assert not any(copies)
        return
    before, after = Ran(router, dense), Ran(router, [x.detach() for x in xs])
    assert copies == [a - b for a, b in zip(after.copies(), before.copies(), strict=True)]
    for kernel in explained.kernels:
        whys = [n for n in explained.notes if re.match(rf"{kernel.operator} (reads a )?cop", n)]
        assert len(whys) == kernel.copies
        assert kernel.copies == 0 or f"copies {kernel.copies}" in str(kernel)
    read = {n.split("[")[1][0] for n in explained.notes if " reads a copy of xs[" in n}
    assert read <= {str(i) for i in range(len(xs)) if i in which or 0 in which}


def test_a_copy_is_named_with_its_strides():
    xs = maps()
    xs[1] = every_second(xs[1])
    (forward, backward) = mpk.explain(mpk.CrossConnect(4, 2, 2), xs).notes
    assert forward == "cross_connect reads a copy of xs[1]: strides (288, 72, 12, 2)"
    assert backward == forward.replace("connect ", "connect_backward ")
    assert xs[1].stride() == (288, 72, 12, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_predictions_on_a_gpu_lie_as_those_of_cudnn(dtype):
    """As PyTorch's convolutions on a CPU, but for float64, of which cuDNN has no channels_last."""
    xs = maps(dtype=dtype)
    xs[1] = other_format(xs[1])
    counts = {
        device: [kernel.copies for kernel in mpk.explain(conv(dtype=dtype), xs, device).kernels]
        for device in ("cpu", "cuda")
    }
    assert counts["cpu"] == [1, 1, 2, 0]
    assert counts["cuda"] == ([1, 0, 0, 0] if dtype == torch.float64 else counts["cpu"])


# Bytes.

ONE = 2 * 4 * 6 * 6 * 4  # of a map
U, Y = 2 * 9 * 6 * 6 * 4, 2 * 3 * 6 * 6 * 4
FLOORS = {
    "cross_connect": [(2 + 3) * ONE, (2 + 2 + 3) * ONE],
    "cross_connect of vectors": [(2 + 3) * 32, (2 + 2 + 3) * 32],
    "mix": [(2 + 3) * ONE, (2 + 2 + 3) * ONE],
    "mix by channel": [(2 + 2) * ONE, (2 + 2 + 2) * ONE],
    "combine": [2 * ONE, 2 * U + 3 * Y, 4 * U + 3 * Y, 0],
    "norms": [2 * ONE, 2 * U + 3 * Y, 4 * U + 3 * Y, 0],
    "folded": [2 * ONE, 2 * U + 3 * Y, 4 * U + 3 * Y, 0],
    # Vectors of 32 bytes, predictions of 72, outputs of 24.
    "small vectors": [2 * 32 + 2 * 72 + 3 * 24, 4 * 32 + 2 * 72 + 3 * 24],
    "large vectors": [2 * 800, 2 * 1600 + 2 * 800, 4 * 1600 + 2 * 800, 0],
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@EACH
def test_floors_are_each_map_once(kind, device):
    if (kind, device) == ("small vectors", "cuda"):
        pytest.skip("other operators run there")
    build, inputs = ROUTERS[kind]
    explained = mpk.explain(build(), inputs(), device)
    assert [kernel.floor for kernel in explained.kernels] == FLOORS[kind]


@EACH
def test_autocast_is_followed(kind):
    build, inputs = ROUTERS[kind]
    router, xs = build(), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        explained, on_gpu = mpk.explain(router, xs), mpk.explain(router, xs, device="cuda")
        with Seen() as seen, torch.no_grad():
            router(xs)
        double = mpk.explain(router.double(), [x.double() for x in xs])
    assert explained.dtype == torch.bfloat16 and on_gpu.dtype == torch.float32
    assert double.dtype == torch.float64  # which autocast leaves alone
    assert {t.dtype for _, paths, _ in seen.calls for t in paths} == {explained.dtype}
    forward, _ = halves(explained.kernels)
    assert [kernel.operator for kernel in forward] == [name for name, *_ in seen.calls]
    if kind != "small vectors":  # they are other operators under autocast
        assert [kernel.floor * 2 for kernel in explained.kernels] == FLOORS[kind]
    assert on_gpu.kernels[0].floor == FLOORS[kind][0] or kind == "small vectors"


@pytest.mark.parametrize(("floor", "text"), [
    (0, "mix: eager"), (1023, "mix: eager, floor 1023.0 B"), (1024, "mix: eager, floor 1.0 KiB"),
    (3 << 19, "mix: eager, floor 1.5 MiB"), (5 << 41, "mix: eager, floor 10240.0 GiB"),
])  # fmt: skip
def test_bytes_are_readable(floor, text):
    assert str(EXPLAIN.Kernel("mix", "eager", None, floor, 0)) == text


# Batch norms.


def test_norms_are_folded_where_none_runs():
    """tests/operators/test_norms.py tries every change of a norm."""
    router, xs = conv(batch_norm=True), maps()
    for change, folded in (
        (lambda: router.train(), False),
        (lambda: router.eval(), True),
        (lambda: router.norms[1].register_forward_hook(lambda *_: None), False),
    ):
        change()
        explained, run = mpk.explain(router, xs), Ran(router, xs)
        assert ("aten::batch_norm" not in run.names) == folded
        assert ("batch norms are folded into combine" in explained.notes) == folded
        reason = f"batch norms are not folded: {why_not_folded(router)}"
        assert (reason in explained.notes) == (not folded)
    assert not any("norms" in note for note in mpk.explain(conv(), xs).notes)


def test_a_router_alone_is_not_called():
    def refuse(*arguments):
        raise AssertionError("somebody called it")

    router = conv(batch_norm=True)
    expected = mpk.explain(router, maps()).kernels
    for module in (router, router.norms[0]):
        module.register_forward_pre_hook(refuse)
    assert mpk.explain(router, maps()).kernels == expected


def test_small_vectors_fold_into_their_one_operator():
    router = mpk.CrossPredictLinear(4, 3, 2, 3, batch_norm=True).eval()
    assert "batch norms are folded into cross_predict" in mpk.explain(router, vectors()).notes
    run = Ran(router, vectors())
    assert run.order[0] == "cross_predict" and "aten::batch_norm" not in run.names


def test_what_holds_no_router_is_refused():
    message = "explain: model must hold a router, got Linear"
    with pytest.raises(TypeError, match=message):
        mpk.explain(torch.nn.Linear(2, 2), maps())


@pytest.mark.parametrize("module", [mpk, eager], ids=["fused", "eager"])
def test_what_a_call_refuses_is_refused(module):
    connect, predict = module.CrossConnect(4, 2, 2), conv(module)
    for router, xs in (
        (connect, maps(channels=5)),
        (connect, maps(paths=3)),
        (predict, maps(channels=5)),
        (predict, [x.flatten(2) for x in maps()]),
        (predict, maps(dtype=torch.float64)),
        (connect, [x.to_sparse() for x in maps()]),
    ):
        with pytest.raises((TypeError, ValueError)) as said:
            mpk.explain(router, xs)
        with pytest.raises(said.type, match=re.escape(str(said.value))):
            router(xs)


def test_fake_tensors_are_enough():
    from torch._subclasses import FakeTensorMode

    router, xs = mpk.CrossConnect(4, 2, 2), maps()
    xs[1] = other_format(xs[1])
    expected = mpk.explain(router, xs)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x) for x in xs]
        assert mpk.explain(router, fakes) == expected
    assert mpk.explain(router, fakes) == expected
    meta = [x.to("meta") for x in xs]
    assert mpk.explain(router, meta, "cpu") == expected
    assert mpk.explain(router, meta).kernels[0].backend == "eager"
