"""cross_predict under PyTorch's machinery: higher orders, tracing, bad values, bad input."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import mpkernels as mpk
from mpkernels import eager, functional
from mpkernels.ops.flags import mask_of
from proof.problems import calls
from proof.problems.layers import F64, LAYERS, NAMES, Layer, problem, run
from proof.where import INTERPRETED

if INTERPRETED:
    pytest.skip("Triton runs the layer by its parts, which have tests", allow_module_level=True)


SMALL = [
    Layer("all", batch=2, channels=3, out_channels=2, hidden=3, dtype=F64),
    Layer("bare", 2, 3, 2, 1, 2, 3, F64, absent=("bias", "b1", "b2", "scale", "shift"), relu=False),
]


def of_tensors(layer, function):
    """The layer as a function of all its tensors, and the tensors."""
    xs, parameters = problem(layer)
    names = [name for name, t in parameters.items() if t is not None]

    def flat(*tensors):
        values = {**dict.fromkeys(NAMES), **dict(zip(names, tensors[len(xs) :]))}
        ys, gates = run(function, layer, list(tensors[: len(xs)]), values)
        return (*ys, gates)

    return flat, (*xs, *(parameters[name] for name in names))


@pytest.mark.parametrize("layer", SMALL, ids=str)
def test_finite_differences(layer, backend):
    function, tensors = of_tensors(layer, functional.cross_predict)
    assert gradcheck(function, tensors)
    if backend != "eager":  # its second derivatives are PyTorch's own
        assert gradgradcheck(function, tensors)


def test_torch_func(backend):
    function, tensors = of_tensors(SMALL[0], functional.cross_predict)
    definition, _ = of_tensors(SMALL[0], eager.cross_predict)
    tensors, every = [t.detach() for t in tensors], tuple(range(len(tensors)))

    def loss(f):
        return lambda *flat: sum(y.pow(2).sum() for y in f(*flat))

    actual = torch.func.grad(loss(function), argnums=every)(*tensors)
    expected = torch.func.grad(loss(definition), argnums=every)(*tensors)
    for a, e in zip(actual, expected, strict=True):
        assert (a - e).abs().max() <= 2**-53 * 1e6 * e.abs().max()


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # opcheck's
@pytest.mark.parametrize("layer", [LAYERS[i] for i in (0, 1, 5, 15, 24)], ids=str)
def test_opcheck(layer, backend):
    torch.use_deterministic_algorithms(False)
    xs, parameters = problem(layer)
    op = torch.ops.mpkernels
    rest = calls.packed("cross_predict", list(parameters.values()), layer.relu)
    torch.library.opcheck(op.cross_predict.default, (xs, *rest))
    with torch.no_grad():
        *ys, gates, us = op.cross_predict(xs, *rest)
    flat = [None if t is None else t.detach() for t in parameters.values()]
    rest = calls.packed("cross_predict", flat, layer.relu)
    for flags in ((True,) * (len(xs) + 8), (False, *(True,) * (len(xs) - 1), *(False,) * 8)):
        xs = [x.detach() for x in xs]
        arguments = ([*ys, gates], [gates, us], xs, *rest, mask_of(flags))
        torch.library.opcheck(op.cross_predict_backward.default, arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_propagate_as_in_the_definition(value, backend):
    layer = Layer("", dtype=F64)
    xs, parameters = problem(layer)
    with torch.no_grad():
        xs[1][1, 2] = value

    def results(function):
        ys, gates = run(function, layer, xs, parameters)
        outputs = [*ys, gates]
        grads = [torch.linspace(-1, 1, y.numel(), dtype=F64).view(y.shape) for y in outputs]
        leaves = [*xs, *parameters.values()]
        return [*outputs, *torch.autograd.grad(outputs, leaves, grads)]

    for actual, expected in zip(results(functional.cross_predict), results(eager.cross_predict)):
        assert torch.equal(actual.isnan(), expected.isnan())
        assert torch.equal(actual.isinf(), expected.isinf())


def test_empty_batches(backend):
    xs, parameters = problem(Layer("", batch=0))
    ys, gates = run(functional.cross_predict, Layer(""), xs, parameters)
    sum(y.sum() for y in ys).backward()
    assert [y.shape for y in ys] == [(0, 5)] * 3 and gates.shape == (0, 2, 3)
    assert xs[0].grad.shape == (0, 7)
    assert all(torch.equal(t.grad, torch.zeros_like(t)) for t in parameters.values())


@pytest.mark.parametrize("mode", ["aot_eager", "inductor"])
def test_compiles_to_one_graph_with_the_operator(mode):
    torch.use_deterministic_algorithms(False)
    router = mpk.CrossPredictLinear(6, 5, 2, 3, dtype=F64)
    xs, graphs = [torch.randn(4, 6, dtype=F64) for _ in range(2)], []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return torch._dynamo.lookup_backend(mode)(graph, inputs)

    compiled = torch.compile(router, backend=backend, fullgraph=True)

    def results(f):
        ys = f(xs)
        return [*ys, *torch.autograd.grad(sum(y.pow(2).sum() for y in ys), [*router.parameters()])]

    for actual, expected in zip(results(compiled), results(router), strict=True):
        assert (actual - expected).abs().max() <= 2**-53 * 1e6 * expected.abs().max()
    assert len(graphs) == 1 and graphs[0].count("mpkernels.cross_predict") == 1


def test_exports_with_any_batch():
    router = mpk.CrossPredictLinear(6, 5, 2, 3, batch_norm=True).eval()
    batch = torch.export.Dim("batch", min=2, max=512)
    xs = [torch.randn(4, 6) for _ in range(2)]
    program = torch.export.export(router, (xs,), dynamic_shapes={"xs": [{0: batch}] * 2})
    assert program.graph_module.code.count("mpkernels.cross_predict") == 1
    for size in (2, 300):
        xs = [torch.randn(size, 6) for _ in range(2)]
        for actual, expected in zip(program.module()(xs), router(xs)):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"xs": [torch.zeros(2, 6, 3)] * 2}, ValueError, r"xs\[0\] must be \[B, C\], got \[2"),
        ({"xs": [torch.zeros(2, 6), torch.zeros(2, 5)]}, ValueError, r"xs\[1\] must be \[2, 6\]"),
        ({"xs": []}, ValueError, "xs must hold at least one path"),
        ({"xs": [None]}, TypeError, r"xs\[0\] must be a tensor, got NoneType"),
        ({"weight": None}, TypeError, "weight must be a tensor, got NoneType"),
        ({"weight": torch.zeros(2, 10, 6)}, ValueError, r"weight must be .* n = 3 as w2"),
        ({"weight": torch.zeros(2, 9, 5)}, ValueError, r"weight must be .* \[2, 9, 6\]"),
        ({"weight": torch.zeros(2, 9, 6).double()}, TypeError, "must be torch.float64 as weight"),
        ({"bias": torch.zeros(9)}, ValueError, r"bias must be .* \[2, 9\], got \[9\]"),
        ({"scale": torch.zeros(3, 4)}, ValueError, r"scale must be .* \[3, 3\], got \[3, 4\]"),
        ({"shift": torch.zeros(9)}, ValueError, r"shift must be .* \[3, 3\], got \[9\]"),
        ({"w2": torch.zeros(2, 3, 5)}, ValueError, r"w2 must be .* \[2, 3, 4\], got \[2, 3, 5\]"),
        ({"relu": 1}, TypeError, "relu must be a bool, got int"),
    ],
)  # fmt: skip
def test_errors(change, kind, message, backend):
    good = {
        "xs": [torch.zeros(2, 6)] * 2, "weight": torch.zeros(2, 9, 6), "bias": torch.zeros(2, 9),
        "w1": torch.zeros(2, 4, 6), "b1": None, "w2": torch.zeros(2, 3, 4), "b2": None,
        "scale": torch.ones(3, 3), "shift": None,
    }  # fmt: skip
    functional.cross_predict(**good)
    with pytest.raises(kind, match=message):
        functional.cross_predict(**{**good, **change})
