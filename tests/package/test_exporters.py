"""Programs leave Python: ONNX, decompositions, FLOPs."""

import copy
import subprocess
import sys

import numpy
import onnxruntime
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import mpkernels as mpk
from models import create
from mpkernels.ops.operator import OPERATORS

MAPS, VECTORS = (4, 6, 6), (4,)
ROUTERS = {
    "CrossConnect": (lambda: mpk.CrossConnect(4, 2, 3), MAPS),
    "CrossConnect of vectors": (lambda: mpk.CrossConnect(4, 2, 3), VECTORS),
    "CrossConnect without biases": (lambda: mpk.CrossConnect(4, 2, 2, gate_bias=False), MAPS),
    "CrossPredictConv2d": (
        lambda: mpk.CrossPredictConv2d(4, 5, 3, 2, 3, padding=1, batch_norm=True),
        MAPS,
    ),
    "CrossPredictLinear": (lambda: mpk.CrossPredictLinear(4, 5, 2, 3), VECTORS),
    "CrossStitch": (lambda: mpk.CrossStitch(2), MAPS),
    "CrossStitch by channel": (lambda: mpk.CrossStitch(2, channels=4), MAPS),
}
NETWORKS = ("basecnn_2_cc", "basecnn_3_cp", "basecnn_4_cp", "resnet20_3_cc", "resnet20_4_cp")


class OfPaths(nn.Module):
    def __init__(self, router):
        super().__init__()
        self.router = router

    def forward(self, a, b):
        return self.router([a, b], return_gates=True)


def problem(name):
    build, shape = ROUTERS[name]
    return OfPaths(build()).eval(), [torch.randn(2, *shape) for _ in range(2)]


def in_onnxruntime(model, inputs):
    """What ONNX's runtime returns for an exported model, as a function of its inputs."""
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in inputs)
    program = torch.onnx.export(model, tuple(inputs), dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    assert {node.domain for node in program.model.graph} == {""}

    def run(*given):
        names = [i.name for i in session.get_inputs()]
        return session.run(None, {n: x.numpy() for n, x in zip(names, given)})

    return run


def assert_equal_in_onnxruntime(model, inputs):
    run = in_onnxruntime(model, inputs)
    for batch in (2, 5):
        given = [torch.randn(batch, *x.shape[1:]) for x in inputs]
        with torch.no_grad():
            expected = [y.detach() for y in tree_leaves(model(*given))]
        actual = run(*given)
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected):
            numpy.testing.assert_allclose(a, e.numpy(), rtol=1e-5, atol=1e-6)


# Warnings of the exporter about its own parts.
exporter = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@exporter
@pytest.mark.parametrize("name", ROUTERS)
def test_routers_in_onnx(name):
    assert_equal_in_onnxruntime(*problem(name))


@exporter
@pytest.mark.parametrize("name", ["basecnn_2_cc", "basecnn_3_cp"])
def test_networks_in_onnx(name):
    assert_equal_in_onnxruntime(create(name).eval(), [torch.randn(2, 3, 32, 32)])


@pytest.mark.parametrize("name", ROUTERS)
def test_decompositions_leave_no_operator_of_ours(name):
    model, inputs = problem(name)
    program = torch.export.export(model, tuple(inputs))
    assert "mpkernels" in str(program.graph)
    program = program.run_decompositions(mpk.decompositions())
    assert "mpkernels" not in str(program.graph)
    for actual, expected in zip(*map(tree_leaves, (program.module()(*inputs), model(*inputs)))):
        torch.testing.assert_close(actual, expected)


def test_pytorch_s_own_decompositions_leave_ours_alone():
    model, inputs = problem("CrossConnect")
    program = torch.export.export(model, tuple(inputs)).run_decompositions()
    assert "mpkernels.cross_connect.default" in str(program.graph)


def test_fake_tensors_of_symbolic_sizes_run_no_definition(monkeypatch):
    torch.use_deterministic_algorithms(False)
    ran = []
    for operator in OPERATORS.values():
        monkeypatch.setattr(operator, "run_eager", lambda *_, name=operator.name: ran.append(name))
    router = torch.compile(mpk.CrossConnect(4, 2, 3), dynamic=True, backend="aot_eager")
    ys = router([torch.randn(3, 4, 6, 6, requires_grad=True) for _ in range(2)])
    sum(y.sum() for y in ys).backward()
    assert ran == []


def flops(model, inputs, learns):
    inputs = [x.detach().clone().requires_grad_(learns) for x in inputs]
    with FlopCounterMode(display=False) as counter:
        ys = tree_leaves(model(*inputs))
        forward = counter.get_total_flops()
        if learns or any(p.requires_grad for p in model.parameters()):
            sum(y.square().sum() for y in ys).backward()
    return forward, counter.get_total_flops()


FROZEN = ((), ("w1",), ("w1", "b1"), ("w2", "weight"), ("w1", "b1", "w2", "b2"))


@pytest.mark.parametrize("frozen", FROZEN, ids="+".join)
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("name", ROUTERS)
def test_flops_of_routers_are_those_of_the_definition(name, learns, frozen, backend):
    model, inputs = problem(name)
    model.train()
    for of, p in model.named_parameters():
        p.requires_grad_(of.rpartition(".")[2] not in frozen)
    eager = mpk.unfuse(copy.deepcopy(model))
    expected = flops(eager, inputs, learns)
    assert flops(model, inputs, learns) == expected
    assert expected[0] > 0 or "Stitch" in name


@pytest.mark.parametrize("name", NETWORKS)
def test_flops_of_networks_are_those_of_the_definition(name):
    model = create(name)
    inputs = [torch.randn(2, 3, 32, 32)]
    expected = flops(mpk.unfuse(copy.deepcopy(model)), inputs, False)
    assert flops(model, inputs, False) == expected


FLOPS = """
import sys, torch
{first}
import mpkernels
assert "triton" not in sys.modules or {counter_first}
from torch.utils.flop_counter import FlopCounterMode, flop_registry
assert torch.ops.mpkernels.cross_connect in flop_registry
"""


@pytest.mark.parametrize("counter_first", [False, True])
def test_formulas_are_registered_whichever_is_imported_first(counter_first):
    first = "import torch.utils.flop_counter" if counter_first else ""
    code = FLOPS.format(first=first, counter_first=counter_first)
    subprocess.run([sys.executable, "-c", code], check=True)
