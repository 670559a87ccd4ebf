"""Hypernetworks, squeeze and excitation, and highways; options with bad values."""

import pytest
import torch
from torch import nn

import models
from models.networks.highway import HighwayConv
from models.networks.hyper import HyperConv2d, KernelGenerator
from models.networks.squeeze import SEBlock, SqueezeExcite

pytestmark = pytest.mark.usefixtures("one_thread")

F64 = torch.float64
ROUNDING = 2.0**-53 * 1e4  # of some thousand float64 operations, relative to the result


def close(actual, expected):
    return (actual - expected).abs().max() <= ROUNDING * expected.abs().max().clamp_min(1)


def test_wide_kernels_are_blocks_from_one_generator():
    generator = KernelGenerator().double()
    conv = HyperConv2d(32, 48).double()
    weight = conv.weight(generator)
    assert weight.shape == (48, 32, 3, 3)
    for row in range(3):
        for column in range(2):
            block = weight[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            assert close(block, generator(conv.z[row, column][None])[0])
    # K_i = W_out (W_i z + B_i) + B_out for each input channel i.
    z = conv.z[0, 0]
    a = (generator.hidden.weight @ z + generator.hidden.bias).view(16, 64)
    kernel = (a @ generator.kernel.weight.T + generator.kernel.bias).view(16, 16, 3, 3)
    assert close(weight[:16, :16], kernel.transpose(0, 1))
    with pytest.raises(ValueError, match="channels must be multiples of 16, got 3 and 16"):
        HyperConv2d(3, 16)


def test_all_kernels_share_the_generator():
    torch.manual_seed(0)
    model = models.create("hyper_wrn40_2")
    convs = [m for m in model.modules() if isinstance(m, HyperConv2d)]
    assert [type(m) for m in model.modules()].count(KernelGenerator) == 1
    assert len(convs) == 36
    assert sum(conv.z.shape[0] * conv.z.shape[1] for conv in convs) == 966
    weights = [conv.weight(model.generator) for conv in (convs[0], convs[-1])]
    for weight in weights:
        # A kernel's initial deviation preserves the scale of activations after a ReLU.
        ratio = weight.std() / (2 / (9 * weight.shape[1])) ** 0.5
        assert 0.5 < ratio < 2
        gradient = torch.autograd.grad(weight.square().sum(), model.generator.hidden.weight)[0]
        assert (gradient != 0).any()


@pytest.mark.parametrize("inputs, outputs, stride", [(16, 16, 1), (16, 32, 2)])
def test_blocks_have_identity_mappings(inputs, outputs, stride):
    """What is added is neither normalised nor cut off: x passes unchanged where shapes allow."""
    block = SEBlock(inputs, outputs, stride).double().eval()
    x = torch.randn(2, inputs, 8, 8, dtype=F64)
    active = block.bn1(x).relu()
    branch = block.scale(block.conv2(block.bn2(block.conv1(active)).relu()))
    shortcut = x if stride == 1 else block.shortcut(active)
    assert close(block(x), shortcut + branch)
    nn.init.zeros_(block.conv2.weight)
    assert close(block(x), shortcut)


def test_channels_are_scaled_between_zero_and_one():
    layer = SqueezeExcite(32, 2).double()
    x = torch.randn(3, 32, 8, 8, dtype=F64)
    scale = layer.scale(x)
    assert scale.shape == (3, 32) and (scale > 0).all() and (scale < 1).all()
    assert close(layer(x), x * scale[:, :, None, None])
    other = x[:, :, :4].repeat(1, 1, 2, 1)
    assert not torch.equal(layer.scale(other), scale)  # it depends on the map
    mixed = x.flatten(2)[:, :, torch.randperm(64)].view_as(x)
    assert close(layer.scale(mixed), scale)  # by its mean alone


def test_closed_highways_are_the_identity():
    x = torch.randn(2, 8, 6, 6, dtype=F64)
    closed = HighwayConv(8, gate_bias=-50.0).double()
    assert close(closed(x), x)
    opened = HighwayConv(8, gate_bias=50.0).double()
    assert close(opened(x), opened.transform(x).relu())
    half = HighwayConv(8, gate_bias=-2.0).double()
    t = half.gate(x).sigmoid()
    assert close(half(x), t * half.transform(x).relu() + (1 - t) * x)
    layers = [m for m in models.create("highway").modules() if isinstance(m, HighwayConv)]
    assert len(layers) == 13
    assert all((layer.gate.bias == -2).all() for layer in layers)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("se_basecnn", {"squeeze": "half"}, "squeeze must be one of reduce16, .* got 'half'"),
        ("highway", {"gate_bias": 0.0}, "gate_bias must be negative, got 0.0"),
        ("capsnet", {"size": 16}, "size must be at least 17, got 16"),
        ("capsnet", {"iterations": 0}, "iterations must be at least 1, got 0"),
        ("hyper_wrn40_2", {"depth": 0}, "depth must be at least 1, got 0"),
        ("se_resnet110", {"depth": 0}, "depth must be at least 1, got 0"),
        ("aig_resnet110", {"target_rate": 1.5}, "target_rate must be between 0 and 1, got 1.5"),
        ("aig_resnet110", {"rate_weight": -1.0}, "rate_weight must not be negative, got -1.0"),
        ("aig_resnet110", {"execute": "none"}, "execute must be one of gated, all, got 'none'"),
        ("blockdrop_resnet110", {"stage": "first"}, "stage must be one of pretrain, .* 'first'"),
        ("blockdrop_resnet110", {"penalty": -1.0}, "penalty must not be negative, got -1.0"),
        ("blockdrop_resnet110", {"steps_per_block": 0}, "steps_per_block must be at least 1"),
    ],
)
def test_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, **options)
