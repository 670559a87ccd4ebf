"""Tools that look at modules from outside: torch.fx, feature extraction, hooks, checkpointing."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import mpkernels as mpk
from models import create
from models.networks import registry

# How these run depends on the values of images, or on a device's name.
UNTRACEABLE = {"aig_resnet110", "blockdrop_resnet110", "capsnet"}


def maps(*spatial):
    return [torch.randn(2, 4, *spatial) for _ in range(2)]


ROUTERS = {
    "CrossConnect": (lambda package: package.CrossConnect(4, 2, 3), maps(5, 5)),
    "CrossPredictConv2d": (
        lambda package: package.CrossPredictConv2d(4, 5, 3, 2, 3, batch_norm=True),
        maps(5, 5),
    ),
    "CrossPredictLinear": (lambda package: package.CrossPredictLinear(4, 5, 2, 3), maps()),
    "CrossStitch": (lambda package: package.CrossStitch(inputs=2, outputs=3), maps(5, 5)),
}
router = pytest.mark.parametrize("name", ROUTERS)
package = pytest.mark.parametrize("package", [mpk, mpk.eager], ids=["fused", "eager"])


class Two(nn.Module):
    """A router between layers."""

    def __init__(self, router, return_gates=False):
        super().__init__()
        self.router, self.return_gates = router, return_gates

    def forward(self, a, b):
        if self.return_gates:
            ys, gates = self.router((a.relu(), b), return_gates=True)
            return [y.tanh() for y in ys], gates
        return [y.tanh() for y in self.router([a.relu(), b])]


@router
@package
@pytest.mark.parametrize("return_gates", [False, True])
def test_fx_records_a_router_as_one_node(name, package, return_gates):
    build, xs = ROUTERS[name]
    model = Two(build(package), return_gates).eval()
    traced = torch.fx.symbolic_trace(model)
    assert [str(n.target) for n in traced.graph.nodes if n.op == "call_module"] == ["router"]
    expected, actual = model(*xs), traced(*xs)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_fx_refuses_a_router_alone():
    expected = "records a CrossConnect as one node: trace a module that holds it"
    with pytest.raises(TypeError, match=expected):
        torch.fx.symbolic_trace(mpk.CrossConnect(4, 2, 2))


@pytest.mark.parametrize("name", sorted(set(registry.list_models()) - UNTRACEABLE))
def test_fx_traces_networks(name):
    with torch.device("meta"):
        network = create(name).eval()
    torch.fx.symbolic_trace(network)


def test_features_of_a_network():
    network = create("basecnn_2_cc").eval()
    assert any(node.startswith("routers.") for node in get_graph_node_names(network)[1])
    features = create_feature_extractor(network, {"routers.1": "routed"})
    kept = []
    network.routers[1].register_forward_hook(lambda _, args, ys: kept.append(ys))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        network(x)
        _, gates = kept[0]  # what a router returns last
        torch.testing.assert_close(features(x)["routed"], gates)


@router
@package
# torch sees tensors among arguments, but not within a list of them.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_backward_hooks_see_the_gradients_of_outputs(name, package):
    build, xs = ROUTERS[name]
    module, seen = build(package), []
    module.register_full_backward_hook(lambda _, grad_inputs, grads: seen.append(grads))
    ys = module([x.clone().requires_grad_() for x in xs])
    incoming = [torch.randn_like(y) for y in ys]
    torch.autograd.backward(ys, incoming)
    assert len(seen) == 1
    assert all(torch.equal(g, e) for g, e in zip(seen[0], incoming, strict=True))


@router
@package
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(name, package, reentrant):
    build, xs = ROUTERS[name]
    module = build(package).eval()

    def route(a, b):
        return module([a, b])

    def gradients(run):
        leaves = [x.clone().requires_grad_() for x in xs]
        sum(y.square().sum() for y in run(*leaves)).backward()
        found = [t.grad for t in (*leaves, *module.parameters())]
        module.zero_grad()
        return found

    actual = gradients(lambda *leaves: checkpoint(route, *leaves, use_reentrant=reentrant))
    assert all(map(torch.equal, actual, gradients(route)))
