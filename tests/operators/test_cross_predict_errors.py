"""Cross-prediction routers refuse bad arguments by name."""

import re

import pytest
import torch

import mpkernels as mpk
from mpkernels import eager
from proof.problems.cross_predictions import build

A, V = (2, 3, 8, 8), (2, 6)


@pytest.mark.parametrize("module", [mpk, eager], ids=["fused", "eager"])
@pytest.mark.parametrize(
    ("kind", "xs", "error", "message"),
    [
        ("conv", [torch.zeros(A)], ValueError, "xs must hold inputs = 2 paths, got 1"),
        ("conv", [torch.zeros(A), torch.zeros(2, 4, 8, 8)], ValueError,
         "xs[1] must be [B, C, H, W] with C = in_channels = 3, got [2, 4, 8, 8]"),
        ("conv", [torch.zeros(A[:3])] * 2, ValueError,
         "xs[0] must be [B, C, H, W] with C = in_channels = 3, got [2, 3, 8]"),
        ("linear", [torch.zeros(V), torch.zeros(2, 6, 4)], ValueError,
         "xs[1] must be [B, C] with C = in_features = 6, got [2, 6, 4]"),
        ("linear", [torch.zeros(V).double()] * 2, TypeError,
         "xs[0] must be torch.float32 as weight, got torch.float64"),
        ("conv", [torch.zeros(A).int()] * 2, TypeError, "xs[0] must be"),
        ("conv", [torch.zeros(A), None], TypeError, "xs[1] must be a tensor, got NoneType"),
    ],
)  # fmt: skip
def test_maps_that_do_not_fit(kind, xs, error, message, module):
    with pytest.raises(error, match=re.escape(message)):
        build(kind, 2, 2, module)(xs)


def test_paths_that_differ():
    with pytest.raises(ValueError, match=re.escape("xs[1] must be [2, 3, 8, 8] as xs[0], got")):
        build("conv", 2, 2)([torch.zeros(A), torch.zeros(2, 3, 8, 7)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"out_channels": -1}, "out_channels must be at least 1, got -1"),
        ({"inputs": 0}, "inputs must be at least 1, got 0"),
        ({"outputs": 0}, "outputs must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"kernel_size": 0}, "kernel_size must be one or two integers of at least 1, got 0"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be one or two integers of"),
        ({"stride": 0.5}, "stride must be one or two integers of at least 1, got 0.5"),
        ({"padding": -1}, "padding must be one or two integers of at least 0, got -1"),
        ({"padding": "sane"}, "padding must be \"same\", \"valid\" or numbers, got 'sane'"),
        ({"padding": "same", "stride": 2}, 'stride must be 1 where padding is "same", got 2'),
        ({"dilation": 0}, "dilation must be one or two integers of at least 1, got 0"),
    ],
)  # fmt: skip
def test_bad_sizes(arguments, message):
    good = {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "inputs": 2, "outputs": 2}
    with pytest.raises(ValueError, match=re.escape(message)):
        mpk.CrossPredictConv2d(**(good | arguments))
    if "features" in message.replace("channels", "features"):
        renamed = {k.replace("channels", "features"): v for k, v in (good | arguments).items()}
        del renamed["kernel_size"]
        with pytest.raises(ValueError, match=re.escape(message.replace("channels", "features"))):
            mpk.CrossPredictLinear(**renamed)
