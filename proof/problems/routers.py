"""One small router of each class, and a network of two."""

from __future__ import annotations

import torch
from torch import nn

import mpkernels

ROUTERS = {
    "CrossConnect": lambda kinds: kinds.CrossConnect(4, 2, 3),
    "CrossStitch": lambda kinds: kinds.CrossStitch(inputs=2, outputs=3),
    "CrossPredictConv2d": lambda kinds: kinds.CrossPredictConv2d(4, 4, 3, 2, 3, batch_norm=True),
    "CrossPredictLinear": lambda kinds: kinds.CrossPredictLinear(4, 5, 2, 3),
}


def router_and_paths(name, kinds, batch=5):
    torch.manual_seed(0)
    size = () if name == "CrossPredictLinear" else (6, 6)
    return ROUTERS[name](kinds), [torch.randn(batch, 4, *size) for _ in range(2)]


class TwoRouters(nn.Module):
    """Two routers and the gates of both."""

    def __init__(self, kinds=mpkernels):
        super().__init__()
        self.first, self.second = kinds.CrossConnect(4, 1, 2), kinds.CrossConnect(4, 2, 3)

    def forward(self, x):
        ys, one = self.first(x, return_gates=True)
        ys, two = self.second([y.relu() for y in ys], return_gates=True)
        return sum(y.sin() for y in ys), one, two
