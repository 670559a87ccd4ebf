"""Routed networks on fake CUDA tensors: one graph of our operators, without a break."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import models
import mpkernels as mpk
from proof.problems import calls


def names(graph):
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


@pytest.fixture
def fake():
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_operators_keep_device_dtype_and_format(fake, dtype):
    with torch.device("cuda"):
        router = mpk.CrossConnect(32, 2, 3)
    shape = (4, 32, 8, 8)
    xs = [
        torch.empty(shape, dtype=dtype, device="cuda", memory_format=torch.channels_last)
        for _ in range(2)
    ]
    with torch.no_grad():
        ys, gates = router(xs, return_gates=True)
    assert [y.device.type for y in ys] == ["cuda"] * 3 and gates.dtype == torch.float32
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in ys)
    parameters = [p.detach() for p in router.parameters()]
    kept = [gates, gates.new_empty((4, 2, 32))]
    grads, grad_parameters = calls.call_backward(
        "cross_connect", [*ys, None], kept, xs, (parameters, 0), [True] * 6
    )
    assert {g.dtype for g in grads} == {dtype} and {g.device.type for g in grads} == {"cuda"}
    assert [g.shape for g in grad_parameters] == [p.shape for p in router.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_combine_keeps_device_dtype_and_format(fake, dtype):
    """Each gradient has its prediction's format, and outputs have the first prediction's."""
    us = [
        torch.empty((4, 6, 8, 8), dtype=dtype, device="cuda", memory_format=memory_format)
        for memory_format in (torch.channels_last, torch.contiguous_format)
    ]
    rest = [torch.empty(s, device="cuda") for s in ((4, 2, 3), (2, 6), (3, 2), (3, 2))]
    packed = calls.packed("combine", rest)
    ys = torch.ops.mpkernels.combine(us, *packed)
    assert [(y.shape, y.device.type, y.dtype) for y in ys] == [((4, 2, 8, 8), "cuda", dtype)] * 3
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in ys)
    grads, grad_rest = calls.call_backward("combine", ys, [], us, packed, [True] * 6)
    assert [(g.stride(), g.dtype) for g in grads] == [(u.stride(), dtype) for u in us]
    assert [(g.shape, g.device.type) for g in grad_rest] == [(p.shape, "cuda") for p in rest]


@pytest.mark.parametrize(
    ("network", "operators"),
    [("basecnn_2_cc", {"cross_connect": 5}), ("basecnn_2_cp", {"gate": 4, "combine": 4})],
)
def test_a_whole_network_is_one_graph_of_our_operators(network, operators, fake):
    """The graph is the one that torch.compile(fullgraph=True) captures."""
    with torch.device("cuda"):
        model = models.create(network, num_classes=10).eval()
    x = torch.empty(8, 3, 32, 32, device="cuda")
    with torch.no_grad():
        explained = torch._dynamo.explain(model)(x)
        graph = make_fx(model, tracing_mode="fake")(x).graph
    assert explained.graph_count == 1 and explained.graph_break_count == 0
    for operator, count in operators.items():
        assert sum(f"mpkernels.{operator}." in name for name in names(graph)) == count


def test_export_with_any_batch():
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        model = models.create("basecnn_2_cc", num_classes=10).eval()
        x = torch.empty(8, 3, 32, 32)
    batch = torch.export.Dim("batch", min=2, max=65535)  # pooling allows no more
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    operators = [name for name in names(program.graph) if "mpkernels" in name]
    assert len(operators) == 5
    (outputs,) = [node for node in program.graph.nodes if node.op == "output"]
    assert outputs.args[0][0].meta["val"].device.type == "cuda"
