"""`explain` names the kernels that run, with their launches and bytes."""

import pytest
import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

import mpkernels as mpk
from mpkernels import eager
from mpkernels.explain.combining import _predictions
from mpkernels.ops import backend, native

NO_TRITON = pytest.mark.skipif(
    backend.why_no_triton() is not None, reason="triton is not installed"
)


def maps(paths=2, channels=32, size=16, batch=8, **options):
    return [torch.empty(batch, channels, size, size, **options) for _ in range(paths)]


def test_explain_names_the_kernel_and_its_floor():
    router, one = mpk.CrossConnect(32, 2, 3), 4 * 8 * 32 * 16 * 16
    result = mpk.explain(router, maps(), device="cuda")
    if backend.why_no_triton() is None:
        assert (result.operator, result.backend, result.method) == (
            "cross_connect",
            "triton",
            "resident",
        )
        assert (result.forward.launches, result.backward.launches) == (1, 2)
        assert result.forward.moved == result.forward.floor and result.forward.again == 0
    assert result.forward.floor == (2 + 3) * one
    assert result.backward.floor == (2 + 3 + 2) * one
    on_cpu = mpk.explain(router, maps())
    assert on_cpu.backend == ("native" if native.why_no_cpu is None else "eager")
    if on_cpu.backend == "native":
        assert on_cpu.instruction_set == torch.ops.mpkernels.instruction_set("")
    assert on_cpu.operator in str(on_cpu) and on_cpu.backend in str(on_cpu)


@NO_TRITON
def test_explain_tells_why_a_sample_is_walked():
    router, xs = mpk.CrossConnect(64, 2, 2), maps(channels=64, size=56, device="meta")
    result = mpk.explain(router, xs, device="cuda")
    assert result.method == "split" and "groups of 19 samples stay in L2" in str(result)
    assert result.forward.launches == 2 and result.forward.again == 2 * 4 * 8 * 64 * 56 * 56
    forward = next(note for note in result.notes if note.startswith("forward reads X twice"))
    assert "CUDA C++ could keep it, cluster of 8 block(s)" in forward
    assert "two passes were faster on an H100 in nearly all cases timed" in forward
    assert (native.why_no_cuda or "`tune` tries both") in forward
    wide = mpk.explain(
        mpk.CrossConnect(2048, 2, 2), maps(channels=2048, size=56, device="meta"), device="cuda"
    )
    assert "nor does the shared memory of a cluster of blocks" in str(wide)
    narrow = mpk.CrossConnect(2048, 1, 2, hidden=16)
    result = mpk.explain(narrow, maps(1, 2048, 1, device="meta"), device="cuda")
    assert result.method == "split" and "w1 of one path" in str(result)


def test_explain_counts_copies():
    xs = maps()
    xs[1] = xs[1].transpose(2, 3)
    result = mpk.explain(mpk.CrossConnect(32, 2, 2), xs)
    if result.backend == "eager":
        pytest.skip("the eager definition copies nothing")
    assert result.forward.moved - result.forward.floor == 2 * xs[0].nbytes
    assert "xs[1] has strides" in str(result)
    xs[1] = maps()[0].contiguous(memory_format=torch.channels_last)
    result = mpk.explain(mpk.CrossConnect(32, 2, 2), xs)
    assert "another memory format" in str(result)
    assert result.backward.moved - result.backward.floor == 4 * xs[0].nbytes


def test_explain_says_what_was_forced():
    with mpk.use_backend("eager"):
        result = mpk.explain(mpk.CrossStitch(2), maps())
    assert (result.operator, result.backend) == ("mix", "eager")
    assert "use_backend('eager')" in str(result)
    with mpk.use_backend("native"):
        static = mpk.explain(mpk.CrossStitch(2), maps(), device="cuda")
        narrow = mpk.explain(mpk.CrossConnect(32, 2, 2), maps(), device="cuda")
        wide = mpk.explain(
            mpk.CrossConnect(2048, 2, 2), maps(channels=2048, size=56, device="meta"), device="cuda"
        )
    assert "RuntimeError" in str(wide)
    assert ("RuntimeError" in str(narrow)) == (native.why_no_cuda is not None)
    if native.why_no_cuda is None:
        assert "its backward raises RuntimeError" in str(static)
    plain = mpk.explain(eager.CrossConnect(32, 2, 2), maps())
    assert plain.backend == "eager" and "mpkernels.fuse" in str(plain)


def test_explain_follows_autocast():
    router, xs = mpk.CrossConnect(32, 2, 2), maps()
    with torch.autocast("cpu", torch.bfloat16):
        result = mpk.explain(router, xs)
    assert result.forward.floor * 2 == mpk.explain(router, xs).forward.floor
    assert "autocast" in str(result)


def test_explain_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="CrossPredictConv2d or CrossPredictLinear, got Linear"):
        mpk.explain(torch.nn.Linear(2, 2), maps())
    with pytest.raises(ValueError, match=r"xs\[0\] must have channels = 7, got 32"):
        mpk.explain(mpk.CrossConnect(7, 2, 2), maps())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("weight_last", [False, True])
@pytest.mark.parametrize("map_last", [False, True])
def test_predictions_lie_as_those_of_a_convolution(map_last, weight_last, size, dtype):
    xs = maps(2, 3, 5, dtype=dtype)
    if map_last:
        xs[1] = xs[1].contiguous(memory_format=torch.channels_last)
    router = mpk.CrossPredictConv2d(3, 4, size, 2, 2, stride=(2, 1), dtype=dtype)
    if weight_last:
        router.to(memory_format=torch.channels_last)
    expected = [router._predict(x, w) for x, w in zip(xs, router.weight)]
    predictions = _predictions(router, [x.to("meta") for x in xs], "cpu")
    assert [(u.shape, u.stride()) for u in predictions] == [(u.shape, u.stride()) for u in expected]


def test_predictions_of_dense_layers():
    router, xs = mpk.CrossPredictLinear(6, 5, 2, 3), [torch.empty(4, 6)] * 2
    result = mpk.explain(router, xs)
    assert "2 dense layers, one per path: X [4, 6] to U [4, 3 x 5]" in str(result)
    one = 4 * linear(xs[0], router.weight[0, :5]).numel()
    assert (result.forward.floor, result.backward.floor) == ((6 + 3) * one, (6 + 3 + 6) * one)


def predicting(bias=True, norm=False, relu=True, module=mpk, outputs=3):
    return module.CrossPredictConv2d(
        32, 8, 3, 2, outputs, padding=1, bias=bias, batch_norm=norm, relu=relu
    )


def test_a_cross_prediction_router_is_explained_in_the_order_in_which_it_runs():
    result = mpk.explain(predicting(norm=True), maps(), device="cuda")
    one, x = 4 * 8 * 8 * 16 * 16, 4 * 8 * 32 * 16 * 16
    assert result.operator == "combine"
    assert (result.forward.floor, result.backward.floor) == ((6 + 3) * one, (6 + 3 + 6) * one)
    assert [step.name for step in (*result.before, *result.after)] == ["gate", "predict", "norms"]
    assert result.before[0].forward.floor == 2 * x
    lines = [line.strip() for line in str(result).splitlines()]
    assert lines[0] == f"combine on cuda: {result.backend}"
    names = ("gate:", "predict:", "forward:", "backward:", "norms:", "note:")
    assert [line.startswith(name) for line, name in zip(lines[1:], names)] == [True] * 6
    assert "2 convolutions, one per path: X [8, 32, 16, 16] to U [8, 3 x 8, 16, 16]" in lines[2]
    if result.backend == "triton":
        assert result.forward.moved == result.forward.floor and result.forward.launches == 1


def test_norms_are_folded_where_they_are_so_in_a_call():
    router = predicting(norm=True)
    training = mpk.explain(router, maps())
    assert "norms[0] depends on the batch" in str(training)
    folded = mpk.explain(router.eval(), maps())
    assert folded.after == () and "a scale and a shift of combine" in str(folded)
    router.norms[1].eps = 0.1
    assert "the norms differ in eps or affine" in str(mpk.explain(router, maps()))
    router.norms[1].register_forward_hook(lambda *_: None)
    assert "norms[1] has hooks" in str(mpk.explain(router, maps()))
    plain = mpk.explain(predicting(norm=True, module=eager).eval(), maps())
    assert plain.backend == "eager" and plain.after and "mpkernels.fuse" in str(plain)
    assert plain.forward.moved > plain.forward.floor and plain.forward.launches is None


@NO_TRITON
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("bias", "norm"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize(("batch", "size"), [(2, 16), (2, 1), (130, 2), (20, 64)])
def test_launches_of_combine_and_gate_are_those_recorded(batch, size, bias, norm, layout):
    from mpkernels.triton import combine, gate
    from proof.recorder import recorded_launches

    xs = [x.contiguous(memory_format=layout) for x in maps(2, 32, size, batch)]
    router = predicting(bias, norm).eval()
    result = mpk.explain(router, xs, device="cuda")
    us = [torch.empty_like(u, device="cpu") for u in _predictions(router, [*xs], "cuda")]
    w1, b1, w2, b2 = router.w1, router.b1, router.w2, router.b2
    scale = shift = torch.empty(3, 8) if norm else None
    with recorded_launches() as gate_forward:
        gates, pooled = gate.gate(xs, w1, b1, w2, b2)
    with recorded_launches() as gate_backward:
        gate.gate_backward(gates, gates, pooled, w1, b1, w2, b2, [True] * 4)
    with recorded_launches() as forward:
        ys = combine.combine(us, gates, router.bias, scale, shift, True)
    wanted = [True] * 3 + [bias, norm, norm]
    with recorded_launches() as backward:
        combine.combine_backward(ys, us, gates, router.bias, scale, shift, True, wanted)
    step = result.before[0]
    costs = [step.forward, step.backward, result.forward, result.backward]
    recorded = [gate_forward, gate_backward, forward, backward]
    assert [cost.launches for cost in costs] == [len(launches) for launches in recorded]


class OperatorCount(TorchDispatchMode):
    """Counts the operators of the library."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, arguments=(), named=None):
        self.count += operator.namespace == "mpkernels"
        return operator(*arguments, **(named or {}))


@pytest.mark.parametrize(
    "router",
    [mpk.CrossConnect(32, 2, 3), mpk.CrossStitch(2), predicting(), predicting(norm=True).eval()],
    ids=["cross_connect", "mix", "combine", "combine folded"],
)
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("threads", [1, 4])
def test_launches_on_cpu_are_operators_of_the_library(router, batch, threads):
    xs = [x.requires_grad_() for x in maps(size=32, batch=batch)]
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    result = mpk.explain(router, xs)
    torch.set_num_threads(threads_before)
    if result.backend == "eager":
        pytest.skip("the eager definition has no operators")
    with OperatorCount() as forward:
        ys = router(xs)
    with OperatorCount() as backward:
        sum(y.sum() for y in ys).backward()
    steps = [*result.before, result]
    assert forward.count == sum(step.forward.launches for step in steps if step.forward)
    assert backward.count == sum(step.backward.launches for step in steps if step.backward)


def test_paths_of_two_formats_are_copied_twice():
    xs = maps()
    xs[1] = xs[1].contiguous(memory_format=torch.channels_last)
    result = mpk.explain(predicting(), xs)
    if result.backend == "eager":
        pytest.skip("the eager definition copies nothing")
    assert "us[1] has strides" in str(result) and "xs[1] has strides" in str(result)
    assert result.forward.moved - result.forward.floor == 2 * 4 * 8 * 24 * 16 * 16
    step = result.before[0]
    assert step.forward.moved - step.forward.floor == 2 * xs[0].nbytes


def test_explain_of_cross_prediction_refuses_what_a_call_refuses():
    router = predicting()
    for bad in (maps(channels=7), [x.flatten(2) for x in maps()]):
        with pytest.raises(
            ValueError, match=r"xs\[0\] must be \[B, C, H, W\] with C = in_channels = 32"
        ):
            mpk.explain(router, bad)
    with pytest.raises(TypeError, match=r"xs\[0\] must be torch.float32 as weight"):
        mpk.explain(router, maps(dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        half = mpk.explain(router, maps())
        assert half.forward.floor * 2 == mpk.explain(router, maps(), device="cuda").forward.floor
    if native.why_no_cuda is None:
        with mpk.use_backend("native"):
            result = str(mpk.explain(router, maps(), device="cuda"))
        assert "a call raises RuntimeError: the CUDA C++ library has no gate yet" in result


def test_small_vectors_are_one_operator_on_cpu():
    note = "gate, dense layers and combine are one operator, cross_predict"
    for features, fused in ((32, True), (256, False)):
        router = mpk.CrossPredictLinear(features, 64, 2, 2)
        xs = [torch.empty(8, features) for _ in range(2)]
        result = mpk.explain(router, xs)
        assert (note in result.notes) == fused != ("autograd" in str(result))
        assert fused != result.before[1].what.startswith("PyTorch's")
        assert note not in mpk.explain(router, xs, device="cuda").notes
        assert note not in mpk.explain(mpk.unfuse(router), xs).notes
