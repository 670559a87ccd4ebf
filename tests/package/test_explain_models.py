"""`explain` of a whole model says of each router what runs in it, and leaves the model alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import models
import mpkernels as mpk
from mpkernels import eager
from mpkernels.ops import backend as table
from proof.explained import Ran, Seen, conv, halves, maps, operators


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ["basecnn_2_cc", "basecnn_2_cp", "cr_stitch_2", "resnet20_2_cc"])
def test_a_network_runs_what_is_said_of_its_routers(name, training):
    model = models.create(name, num_classes=10).train(training)
    images = torch.randn(2, 3, 32, 32)
    explained = mpk.explain(model, images)
    routers = [f"routers.{i}" for i in range(len(model.routers))]
    assert list(explained) == routers and all(f"{name}" in str(explained) for name in routers)
    sides = [halves(operators(one)) for one in explained.values()]
    forward = [name for first, _ in sides for name in first]
    backward = [name for _, second in reversed(sides) for name in second]
    assert Ran(model, images).order == forward + backward
    with Seen() as seen, torch.no_grad():
        model(images)
    kernels = [kernel for one in explained.values() for kernel in halves(one.kernels)[0]]
    for kernel, (name, paths, results) in zip(kernels, seen.calls, strict=True):
        ys = results if name in ("mix", "combine") else results[:-2]
        written = {"gate": [], "cross_predict": [*ys, results[-1]]}.get(name, ys)
        assert (kernel.operator, kernel.copies) == (name, 0)
        assert kernel.floor == sum(t.nbytes for t in (*paths, *written))


def test_a_network_on_a_gpu_and_in_channels_last():
    model = models.create("basecnn_2_cp", num_classes=10, channels_last=True)
    with torch.device("meta"):
        images = torch.empty(2, 3, 32, 32)
    on_gpu = mpk.explain(model, images, device="cuda")
    for name, one in on_gpu.items():
        assert one.device == "cuda" and operators(one)[0] == "gate", name
        assert {k.backend for k in one.kernels} == {table.chosen("gate", "cuda")[0]}
        assert not any(kernel.copies for kernel in one.kernels)


def explained_as_called(model, inputs):
    """The explanation of every call of a router, from the maps of a real run."""
    answers, hooks = [], []
    for module in model.modules():
        if type(module).__module__ == "mpkernels.modules":

            def explain(router, args):
                answers.append(mpk.explain(router, *args))

            hooks.append(module.register_forward_pre_hook(explain))
    with torch.no_grad():
        model(*inputs)
    for hook in hooks:
        hook.remove()
    return answers


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("weights_last", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("name", ["basecnn_2_cp", "resnet20_2_cc", "basecnn_2_cc"])
def test_routers_meet_the_maps_of_a_real_run(name, channels_last, weights_last, autocast):
    model = models.create(name, num_classes=10, channels_last=channels_last)
    if weights_last:
        model.segments.to(memory_format=torch.channels_last)
        model.routers.to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        explained = mpk.explain(model, images)
        assert [*explained.values()] == explained_as_called(model, (images,))
        expected = torch.bfloat16 if autocast else torch.float32
        assert {one.dtype for one in explained.values()} == {expected}


class Mixed(nn.Module):
    """One path in channels_last, through a convolution, and one that is not."""

    def __init__(self):
        super().__init__()
        self.convolve, self.connect = nn.Conv2d(4, 4, 3, padding=1), mpk.CrossConnect(4, 2, 2)

    def forward(self, x, y):
        return self.connect([self.convolve(x), y])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_convolution_keeps_the_format_of_its_maps_or_weights(dtype):
    model, (x, y) = Mixed().to(dtype), maps(dtype=dtype)
    last = {"memory_format": torch.channels_last}
    weights_last = copy.deepcopy(model).to(**last)
    for one, path in ((model, x.contiguous(**last)), (weights_last, x)):
        explained = mpk.explain(one, (path, y))
        assert [explained["connect"]] == explained_as_called(one, (path, y))
        assert [kernel.copies for kernel in explained["connect"].kernels] == [1, 2]
        on_gpu = mpk.explain(one, (path, y), "cuda")["connect"].kernels
        # cuDNN has no channels_last in float64.
        assert [k.copies for k in on_gpu] == ([0, 0] if dtype == torch.float64 else [1, 2])


def test_a_compiled_model_is_explained_as_it_was_written():
    model, batch = Net(), {"maps": maps()}
    explained = mpk.explain(torch.compile(model), batch)
    assert {
        f"_orig_mod.{name}": one for name, one in mpk.explain(model, batch).items()
    } == explained


class Net(nn.Module):
    """What may be hard to run without values: state, random numbers, odd inputs, calls again."""

    def __init__(self):
        super().__init__()
        self.connect = mpk.CrossConnect(4, 2, 2)
        self.predict = eager.CrossPredictConv2d(4, 4, 3, 2, 2, padding=1, batch_norm=True)
        self.spare = mpk.CrossStitch(2)
        self.norm, self.dropout = nn.BatchNorm2d(4), nn.Dropout()
        self.constant, self.calls = torch.ones(()), 0

    def forward(self, batch, twice=False):
        self.calls += 1
        xs = [self.dropout(self.norm(x)) * self.constant for x in batch["maps"]]
        xs = [x + torch.arange(x.shape[-1]) for x in xs]
        xs = self.predict(xs=self.connect(xs))
        xs = self.connect(self.connect(xs)) if twice else xs
        return self.connect([x[..., ::2] for x in xs])


def test_a_model_stays_as_it_was():
    model, batch = Net(), {"maps": maps(), "labels": [1, 2]}
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    values = [x.clone() for x in batch["maps"]]
    explained = mpk.explain(model, batch, "cuda")
    assert str(explained) and model.training and model.calls == 0
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in state.items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(x, v) for x, v in zip(batch["maps"], values))
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    model(batch)
    assert not torch.equal(random, torch.get_rng_state()), "a real call draws numbers"


def test_a_router_that_is_called_again_is_explained_again_where_it_differs():
    model, batch = Net(), {"maps": maps()}
    explained = mpk.explain(model, (batch, True))
    assert list(explained) == ["connect", "predict", "connect #2"]
    with Seen() as seen, torch.no_grad():
        model(batch, True)
    shapes = [(name, paths[0].shape[-1]) for name, paths, _ in seen.calls]
    assert shapes == [("cross_connect", width) for width in (6, 6, 6, 3)]
    assert list(explained["connect #2"].kernels) != list(explained["connect"].kernels)
    assert [kernel.copies for kernel in explained["connect #2"].kernels] == [2, 2]
    assert explained["predict"].kernels[0].backend == "eager"


def test_routers_alike_share_a_block():
    stitches = nn.Sequential(mpk.CrossStitch(2), mpk.CrossStitch(2))
    explained = mpk.explain(stitches, (maps(),))
    assert list(explained) == ["0", "1"] and explained["0"] == explained["1"]
    assert str(explained) == f"0, 1: {explained['0']}"


def test_a_router_in_a_model_is_explained_as_alone():
    model, xs = nn.Sequential(mpk.CrossConnect(4, 2, 3)), maps()
    assert mpk.explain(model, (xs,)) == {"0": mpk.explain(model[0], xs)}


def test_changed_parameters_are_followed():
    """Parameters that are computed, and tensors that are no parameters, are fake too."""
    model = Net()
    nn.utils.parametrizations.weight_norm(model.predict, "weight")
    prune.l1_unstructured(model.connect, "w1", 0.5)
    assert list(mpk.explain(model, {"maps": maps()}, "cuda")) == [
        "connect",
        "predict",
        "connect #2",
    ]
    assert operators(mpk.explain(model.predict, maps())) == operators(mpk.explain(conv(), maps()))
