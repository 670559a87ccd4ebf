"""Networks with routers: fused and eager are one, gates are told, memory formats are kept."""

import copy
import math

import pytest
import torch
from torch import nn

import models
import mpkernels as mpk
from models.networks.layers import GlobalPool
from proof.problems.small_networks import HEAVY, ROUTED, small

pytestmark = pytest.mark.usefixtures("one_thread")

RESNETS = [name for name in ROUTED if name.startswith("resnet") and name.endswith("_cc")]


def named(names, slow=HEAVY):
    """The names, those of `slow` marked so."""
    return [pytest.param(n, marks=pytest.mark.slow if n in slow else ()) for n in names]


def near(found, wanted):
    """In float64 two correct networks differ by rounding alone, amplified by their layers."""
    return (found - wanted).abs().max() <= 2**-53 * 1e6 * wanted.abs().max()


def wide(name, batch=3, **options):
    """The network in float64 with batch norm's statistics as they are, and images."""
    model, x, _ = small(name, batch, **options)
    return model.double().eval(), x.double()


def results(model, x):
    """Logits, and the gradients of all parameters and of the images."""
    x = x.clone().requires_grad_()
    logits = model(x)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    names, parameters = zip(*model.named_parameters())
    found = torch.autograd.grad((logits * weights).sum(), [x, *parameters])
    return {"logits": logits, "x": found[0], **dict(zip(names, found[1:]))}


def check_same(found, wanted):
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not near(found[name], wanted[name])] == []


@pytest.mark.parametrize("name", named(ROUTED))
def test_eager_and_fused_are_one_network(name):
    fused, x = wide(name, routers="fused")
    eager, _ = wide(name, routers="eager")
    kinds = [{type(m).__module__.split(".")[1] for m in net.routers} for net in (fused, eager)]
    assert kinds == [{"modules"}, {"eager"}]
    for (a, one), (b, other) in zip(
        fused.state_dict().items(), eager.state_dict().items(), strict=True
    ):
        assert a == b and torch.equal(one, other)
    eager.load_state_dict(fused.state_dict())
    fused.load_state_dict(eager.state_dict())
    check_same(results(fused, x), results(eager, x))
    again = mpk.unfuse(mpk.fuse(eager))
    assert {type(m).__module__.split(".")[1] for m in again.routers} == {"eager"}


@pytest.mark.parametrize("name", named(RESNETS))
def test_the_last_router_mixes_pooled_maps(name):
    """Its Y is never computed, and yet all values and gradients are those of the plain form."""
    model, x = wide(name)
    plain = copy.deepcopy(model)
    for path in plain.segments[-2]:
        assert isinstance(path[-1], GlobalPool)
        path[-1] = nn.Identity()
    met = {}
    for key, net in (("pooled", model), ("plain", plain)):
        net.routers[-1].register_forward_hook(
            lambda router, inputs, output, key=key: met.update({key: [*inputs[0], *output[0]]})
        )
    check_same(results(model, x), results(plain, x))
    assert {y.dim() for y in met["pooled"]} == {2} and {y.dim() for y in met["plain"]} == {4}
    assert plain.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(("name", "routers"), [("basecnn_3_cc", 5), ("basecnn_3_cp", 4)])
def test_gates_are_returned_in_order(name, routers):
    model = models.create(name, size=8).eval()
    x = torch.randn(2, 3, 8, 8)
    logits, gates = model(x, return_gates=True)
    assert logits.shape == (2, 10) and torch.equal(model(x), logits)
    assert [tuple(g.shape) for g in gates] == [(2, 1, 3)] + [(2, 3, 3)] * (routers - 1)
    for g in gates:
        assert (g.sum(-1) - 1).abs().max() <= 4 * 2**-23
    plain = models.create("basecnn_3", size=8).eval()
    assert plain(x, return_gates=True)[1] == []


@pytest.mark.parametrize("name", ["basecnn", "resnet20", "resnet18"])
def test_the_logits_of_unrouted_paths_are_averaged(name):
    model = models.create(name, paths=3).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), torch.stack([path(x) for path in model.paths]).mean(0))


AVERAGED = ["basecnn_3", "basecnn_3_cc", "basecnn_2_cp", "resnet20_2_cc", "resnet20_2_cp",
            "resnet18_2_cc"]  # fmt: skip


@pytest.mark.parametrize("name", AVERAGED)
def test_probabilities_are_averaged_by_option(name):
    """Of the same weights, with finite gradients where one path is sure of another label."""
    torch.manual_seed(0)
    options = {**TRACED.get(name, {}), "num_classes": 10}
    model = models.create(name, average="probabilities", **options).eval()
    plain = models.create(name, **options).eval()
    plain.load_state_dict(model.state_dict())
    x, paths = torch.randn(4, 3, 32, 32), []
    last = list(model.segments)[-1] if hasattr(model, "segments") else model.paths
    hooks = [m.register_forward_hook(lambda *call: paths.append(call[2])) for m in last]
    together = model(x)
    for hook in hooks:
        hook.remove()
    wanted = torch.stack([path.double().softmax(1) for path in paths]).mean(0)
    torch.testing.assert_close(together.double().exp(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(plain(x), torch.stack(paths).mean(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.float32 == torch.fx.symbolic_trace(model)(x).dtype
    logits = [torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, 200.0]])]
    logits[0].requires_grad_()
    loss = torch.nn.functional.cross_entropy(model.average(logits), torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.autograd.grad(loss, logits[0])[0].isfinite().all()


def test_other_averages_are_refused():
    with pytest.raises(ValueError, match="average must be one of logits, probabilities, got 'x'"):
        models.create("basecnn_2_cc", average="x")


@pytest.mark.parametrize("routers", ["fused", "eager"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", ["basecnn_2_cc", "basecnn_2_cp", "resnet20_2_cc", "resnet18_2_cc"])
def test_all_maps_keep_the_memory_format(name, channels_last, routers):
    model, x, _ = small(name, channels_last=channels_last, routers=routers)
    seen = []

    def note(module, inputs, output):
        maps = output[0] if isinstance(output, tuple) else output
        for y in maps if isinstance(maps, (list, tuple)) else [maps]:
            if y.dim() == 4:
                seen.append((type(module).__name__, y))

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)) or module in set(
            model.routers
        ):
            module.register_forward_hook(note)
    model(x)
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert len(seen) >= 20
    assert [kind for kind, y in seen if not y.is_contiguous(memory_format=wanted)] == []


@pytest.mark.parametrize("name", named(ROUTED))
def test_channels_last_is_the_same_network(name):
    plain, x = wide(name)
    last, _ = wide(name, channels_last=True)
    check_same(results(last, x), results(plain, x))


# By default a BaseCNN and a short ResNet: tracing takes seconds a network.
TRACED = {"basecnn_2_cc": {}, "basecnn_2_cp": {}, "resnet20_2_cc": {"depth": 1}}


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", named(ROUTED, set(ROUTED) - set(TRACED)))
def test_compiles_to_one_graph(name, channels_last):
    torch.use_deterministic_algorithms(False)
    torch._dynamo.reset()
    model, x = wide(name, channels_last=channels_last, **TRACED.get(name, {}))
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    wanted = results(model, x)
    x = x.clone().requires_grad_()
    logits = compiled(x)
    assert near(logits, wanted["logits"])
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    assert near(torch.autograd.grad((logits * weights).sum(), x)[0], wanted["x"])
    assert len(graphs) == 1 and graphs[0].count("torch.ops.mpkernels") >= len(model.routers)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", named(ROUTED, set(ROUTED) - set(TRACED)))
def test_exports_with_any_batch(name, channels_last):
    model, x = wide(name, batch=4, channels_last=channels_last, **TRACED.get(name, {}))
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}})
    operators = program.graph_module.code.count("torch.ops.mpkernels")
    # Gate and combine around the convolutions; a layer of few vectors is one operator, as others.
    convolutions = sum(isinstance(r, mpk.CrossPredictConv2d) for r in model.routers)
    assert operators == len(model.routers) + convolutions
    more = torch.cat([x, -x[:3]])
    assert near(program.module()(more), model(more))
