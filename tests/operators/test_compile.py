"""torch.compile, torch.export and the operators' registration."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch

import mpkernels as mpk
from mpkernels.ops.flags import mask_of
from proof.problems import calls
from proof.problems.cases import (
    CASES,
    make_combine_parameters,
    make_gates,
    make_grad_ys,
    make_parameters,
    make_paths,
    make_predictions,
)

CHOSEN = [
    case
    for case in CASES
    if case.name.startswith(("2_to_3", "layout", "bfloat16_nchw", "one_", "no_bias", "volume"))
    or case.name in ("float32_vector", "wide_parameters", "x0_frozen", "parameters_frozen")
]
# How PyTorch traces an operator depends neither on strides nor on who runs it.
TRACED = ("2_to_3", "no_bias", "float32_vector", "layout_channels_last", "x0_frozen")
FILTERS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def opcheck(operator, arguments, case, backend):
    """Of every case the schema and the fake kernel (shapes and strides)."""
    tests = ["test_schema", "test_faketensor"]
    if case.name in TRACED and backend != "eager":
        tests += ["test_autograd_registration", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(operator, arguments, test_utils=tests)


def detached(tensors):
    return [None if t is None else t.detach() for t in tensors]


@FILTERS
@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_opcheck(case, backend):
    torch.use_deterministic_algorithms(False)  # opcheck compares repeated runs of empty outputs
    xs, parameters = make_paths(case), list(make_parameters(case).values())
    gates = make_gates(case)
    op = torch.ops.mpkernels
    check = partial(opcheck, case=case, backend=backend)
    check(op.cross_connect.default, (xs, parameters, 0))
    check(op.gate.default, (xs, parameters, 0))
    check(op.mix.default, (xs, gates))
    with torch.no_grad():
        *ys, g, pooled = op.cross_connect(xs, parameters, 0)
    grad_ys, flat = make_grad_ys(case, ys), detached(parameters)
    wanted = [True, *[i % 2 == 0 for i in range(len(xs) - 1)], True, case.bias, True, case.bias]
    kept = [g, pooled]
    backward = ([*grad_ys, None], kept, detached(xs), flat, 0, mask_of(tuple(wanted)))
    check(op.cross_connect_backward.default, backward)
    some = mask_of((True, case.bias, False, case.bias))
    check(op.gate_backward.default, (torch.randn(g.shape).to(g), kept, flat, 0, some))
    for flags in ([True] * (len(xs) + 1), [False] * len(xs) + [True], [True] * len(xs) + [False]):
        wanted = mask_of(tuple(flags))
        check(op.mix_backward.default, (grad_ys, [], detached(xs), gates.detach(), wanted))


@FILTERS
@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_opcheck_of_combine(case, backend):
    torch.use_deterministic_algorithms(False)
    us, op = make_predictions(case), torch.ops.mpkernels
    folded = relu = case.bias  # each is left out once
    parameters = list(make_combine_parameters(case, folded).values())
    rest = calls.packed("combine", parameters, relu)
    check = partial(opcheck, case=case, backend=backend)
    check(op.combine.default, (us, *rest))
    with torch.no_grad():
        grad_ys = make_grad_ys(case, op.combine(us, *rest))
    rest = calls.packed("combine", detached(parameters), relu)
    arguments = (grad_ys, [], detached(us), *rest)
    there = [p is not None for p in parameters]
    for wanted in ([True] * len(us) + there, [i > 0 for i in range(len(us))] + [False] * 4):
        check(op.combine_backward.default, (*arguments, mask_of(tuple(wanted))))


class Net(torch.nn.Module):
    """Routers between convolutions, gates in the output."""

    def __init__(self):
        super().__init__()
        self.first = mpk.CrossConnect(3, 1, 2)
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(3, 4, 3) for _ in range(2))
        self.second = mpk.CrossConnect(4, 2, 2)
        self.stitch = mpk.CrossStitch(2)
        self.predictions = torch.nn.ModuleList(torch.nn.Conv2d(4, 6, 3) for _ in range(2))

    def forward(self, x):
        xs = [conv(x).relu() for conv, x in zip(self.convs, self.first(x))]
        ys, gates = self.second(xs, return_gates=True)
        us = [conv(y) for conv, y in zip(self.predictions, self.stitch(ys))]
        return sum(mpk.functional.combine(us, gates)), gates


IN_NET = {"cross_connect": 2, "mix": 1, "combine": 1}


@pytest.mark.parametrize("mode", ["aot_eager", "inductor"])
def test_compiles_to_one_graph_with_our_operators(mode, monkeypatch):
    torch.use_deterministic_algorithms(False)
    net, x = Net().double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return torch._dynamo.lookup_backend(mode)(graph, inputs)

    compiled = torch.compile(net, backend=backend, fullgraph=True)

    def run(function):
        y, gates = function(x)
        loss = y.pow(2).sum() + gates.pow(3).sum()
        return [y, gates, *torch.autograd.grad(loss, list(net.parameters()))]

    for found, wanted in zip(run(compiled), run(net)):
        assert (found - wanted).abs().max() <= 2**-53 * 1e6 * wanted.abs().max()
    assert len(graphs) == 1
    assert {name: graphs[0].count(f"mpkernels.{name}") for name in IN_NET} == IN_NET


COMPILED_FIRST = """
import torch, mpkernels as mpk
router = mpk.CrossPredictLinear(4, 3, 2, 2)
x = [torch.randn(2, 4) for _ in range(2)]
for function in (router, lambda x: mpk.functional.mix(x, torch.rand(2, 2, 2))):
    torch.compile(function, fullgraph=True)(x)[0].sum()
"""


def test_inductor_compiles_where_changes_are_checked(tmp_path):
    """Under CI=true it refuses an operator of PyTorch's table of decompositions."""
    environment = {**os.environ, "CI": "true", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", COMPILED_FIRST], env=environment, check=True)


WRAPPED = {
    "CrossConnect": lambda: (mpk.CrossConnect(4, 2, 3), (2, 4, 5, 5)),
    "CrossStitch": lambda: (mpk.CrossStitch(2), (2, 4, 5, 5)),
    "CrossPredictConv2d": lambda: (mpk.CrossPredictConv2d(4, 3, 3, 2, 2), (2, 4, 5, 5)),
    "CrossPredictLinear": lambda: (mpk.CrossPredictLinear(8, 5, 2, 3), (3, 8)),
}


@pytest.mark.parametrize(
    "name", ["CrossConnect", *(pytest.param(n, marks=pytest.mark.slow) for n in [*WRAPPED][1:])]
)
def test_inductor_calls_operators_from_cpp(name):
    """cpp_wrapper refuses operators that return more than one kind of thing."""
    torch.use_deterministic_algorithms(False)
    router, shape = WRAPPED[name]()
    xs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    router = router.double()
    compiled = torch.compile(router, fullgraph=True, options={"cpp_wrapper": True})

    def run(function):
        ys = function(xs)
        loss = sum(y.pow(2).sum() for y in ys)
        return [*ys, *torch.autograd.grad(loss, [*xs, *router.parameters()])]

    for actual, expected in zip(run(compiled), run(router)):
        assert (actual - expected).abs().max() <= 2**-53 * 1e6 * expected.abs().max()


def test_exports_with_any_batch():
    net = Net().eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(net, (torch.randn(4, 3, 8, 8),), dynamic_shapes={"x": {0: batch}})
    code = program.graph_module.code
    assert {name: code.count(f"mpkernels.{name}") for name in IN_NET} == IN_NET
    for size in (2, 7):
        x = torch.randn(size, 3, 8, 8)
        for found, wanted in zip(program.module()(x), net(x)):
            assert (found - wanted).abs().max() <= 2**-24 * 1e3 * wanted.abs().max()


def test_fake_kernels_on_cuda_without_a_gpu():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        xs = [torch.empty(8, 4, 5, 5, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
        w1, w2 = (torch.empty(*s, device="cuda") for s in ((2, 16, 4), (2, 3, 16)))
        *ys, gates, pooled = torch.ops.mpkernels.cross_connect(xs, [w1, None, w2, None], 0)
        assert [y.device.type for y in ys] == ["cuda"] * 3 and ys[0].dtype == torch.bfloat16
        assert gates.shape == (8, 2, 3) and pooled.dtype == torch.float32
        us = [torch.empty(8, 6, 5, 5, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
        ys = torch.ops.mpkernels.combine(us, gates, [None] * 3, True)
        assert [(y.shape, y.device.type, y.dtype) for y in ys] == [
            ((8, 2, 5, 5), "cuda", torch.bfloat16)
        ] * 3
