"""Every router's constructor, eager and fused, refuses bad arguments by name."""

import re

import numpy as np
import pytest
import torch

import mpkernels as mpk

GOOD = {
    "CrossConnect": {"channels": 4, "inputs": 2, "outputs": 3, "hidden": 5},
    "CrossStitch": {"inputs": 2, "outputs": 3, "channels": 4},
    "CrossPredictConv2d": {
        "in_channels": 4, "out_channels": 5, "kernel_size": 3, "inputs": 2, "outputs": 3,
        "stride": 1, "padding": 1, "hidden": 5, "dilation": 1,
    },
    "CrossPredictLinear": {
        "in_features": 4, "out_features": 5, "inputs": 2, "outputs": 3, "hidden": 5,
    },
}  # fmt: skip
PAIRS = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
FLAGS = {
    "CrossConnect": ["gate_bias"],
    "CrossStitch": [],
    "CrossPredictConv2d": ["bias", "batch_norm", "relu", "gate_bias"],
    "CrossPredictLinear": ["bias", "batch_norm", "relu", "gate_bias"],
}
ROUTERS = pytest.mark.parametrize("name", GOOD)
MODULES = pytest.mark.parametrize("module", [mpk, mpk.eager], ids=["fused", "eager"])
NO_SIZES = ["64", 2.0, 2.5, True, False, float("nan"), [4], b"4", 4j, torch.ones(2), {}, object]


@MODULES
@ROUTERS
def test_sizes(name, module):
    make = getattr(module, name)
    for argument in GOOD[name]:
        if argument in PAIRS:
            continue
        optional = name == "CrossStitch" and argument != "outputs"
        for bad in NO_SIZES if optional else [*NO_SIZES, None]:
            with pytest.raises(TypeError, match=rf"^{argument} must be an integer, got "):
                make(**{**GOOD[name], argument: bad})
        for bad in (0, -1, -(1 << 40), np.int64(-2)):
            with pytest.raises(ValueError, match=rf"^{argument} must be at least 1, got {bad}$"):
                make(**{**GOOD[name], argument: bad})


@MODULES
def test_pairs(module):
    for argument, least in PAIRS.items():
        message = f"{argument} must be one or two integers of at least {least}, got "
        for bad in (2.0, True, None, -1, (1, 2, 3), (), (1, -1), (1, "2"), [True, 1], {1: 2},
                    float("inf"), *(["3"] if argument != "padding" else [])):  # fmt: skip
            with pytest.raises(ValueError, match=re.escape(f"{message}{bad!r}")):
                module.CrossPredictConv2d(**{**GOOD["CrossPredictConv2d"], argument: bad})


@MODULES
@ROUTERS
def test_flags(name, module):
    for argument in FLAGS[name]:
        for bad in ("no", "False", 0, 1, None, 1.0, [], torch.tensor(True)):
            with pytest.raises(TypeError, match=rf"^{argument} must be a bool, got "):
                getattr(module, name)(**GOOD[name], **{argument: bad})


@MODULES
@ROUTERS
def test_dtypes_and_devices(name, module):
    make = getattr(module, name)
    for bad in (torch.int64, torch.complex64, torch.bool, torch.float8_e4m3fn, "float32", float):
        with pytest.raises(TypeError, match="^dtype must be torch.float32, float64, bfloat16 or"):
            make(**GOOD[name], dtype=bad)
    for bad in ("gpu", 2.5, [1]):
        with pytest.raises((TypeError, RuntimeError), match="device"):
            make(**GOOD[name], device=bad)


@MODULES
@ROUTERS
def test_numbers_of_numpy_are_integers(name, module):
    numbers = {key: np.int64(value) for key, value in GOOD[name].items()}
    router, plain = getattr(module, name)(**numbers), getattr(module, name)(**GOOD[name])
    assert str(router) == str(plain)
    assert [p.shape for p in router.parameters()] == [p.shape for p in plain.parameters()]
    attributes = [value for key, value in vars(router).items() if key in GOOD[name]]
    assert all(type(value) in (int, tuple) for value in attributes)
