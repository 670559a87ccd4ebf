"""How convolutions and dense layers start, where it is not PyTorch's way.

The paper states no initialisation. Gates have a start of their own, `gate_init`.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from mpkernels import eager

LAYER_INITS = ("pytorch", "he", "glorot")


def _fill(weight: Tensor, bias: Tensor | None, inputs: int, outputs: int, how: str) -> None:
    """Draws weights: "he" from N(0, 2 / inputs), "glorot" within sqrt(6 / (inputs + outputs))."""
    if how == "he":
        nn.init.normal_(weight, 0, math.sqrt(2 / inputs))
    else:
        bound = math.sqrt(6 / (inputs + outputs))
        nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.zeros_(bias)


def start(model: nn.Module, how: str) -> None:
    """Draws the weights of all convolutions and dense layers, of predictions too; biases are 0.

    Args:
        model: the network.
        how: "he" or "glorot", see `_fill`, of each output's own inputs and outputs.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            places = math.prod(module.weight.shape[2:])
            rows, columns = (size * places for size in module.weight.shape[:2])
            _fill(module.weight, module.bias, columns, rows, how)
        elif isinstance(module, (eager.CrossPredictConv2d, eager.CrossPredictLinear)):
            # [m, n O, C, ...]: the layers to all n outputs lie one behind another.
            places = math.prod(module.weight.shape[3:])
            rows = module.weight.shape[1] // module.outputs * places
            _fill(module.weight, module.bias, module.weight.shape[2] * places, rows, how)
