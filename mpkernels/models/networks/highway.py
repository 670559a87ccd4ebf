"""A highway network of 19 layers for 32x32 images: layers that learn how much to change.

    y = T(x) H(x) + (1 - T(x)) x,    H = ReLU(conv(x)),  T = sigmoid(conv_T(x))

Follows Srivastava, Greff and Schmidhuber, "Training Very Deep Networks" (2015): equation 3, the
bias of T negative at the start (section 2.2), and their 19-layer CIFAR network of 2.3 M parameters
in its fully convolutional form (section 3). That is the thin "FitNet 4" of Romero et al. (2014):
3x3 convolutions of 32 (three times), 48 (twice), 80 and 128 channels (six times each), pooled
between 48 and 80, 80 and 128; where the number of channels changes the layer is a plain
convolution with ReLU, since the carried x must fit y; the dense layer of the thin network is a 1x1
convolution followed by an average over all positions.

Left out: dropout, whitening of the images, and their training schedule. Assumed: one 1x1
convolution of 128 maps with ReLU in front of the classifier, and a gate bias of -2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from .config import Config
from .layers import GlobalPool
from .registry import register_config


def _he(conv: nn.Conv2d) -> nn.Conv2d:
    """Initialises so that a ReLU keeps the scale of its input, which no batch norm does here."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class HighwayConv(nn.Module):
    """One highway layer, 3x3, on maps [B, C, H, W].

    Args:
        channels: C, of input and output.
        gate_bias: initial bias of the transform gate; far below 0 the layer is the identity.
    """

    def __init__(self, channels: int, gate_bias: float) -> None:
        super().__init__()
        self.transform = _he(nn.Conv2d(channels, channels, 3, padding=1))
        self.gate = _he(nn.Conv2d(channels, channels, 3, padding=1))
        nn.init.constant_(self.gate.bias, gate_bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """The layer: T H + (1 - T) x."""
        return torch.lerp(
            x, relu(self.transform(x)).to(x.dtype), self.gate(x).sigmoid().to(x.dtype)
        )


@dataclass(frozen=True)
class HighwayConfig(Config):
    """Sizes of the network.

    Args:
        stages: channels of each 3x3 convolution; there is a max pool between two stages.
        gate_bias: initial bias of every transform gate, below 0.
    """

    stages: tuple[tuple[int, ...], ...] = ((32, 32, 32, 48, 48), (80,) * 6, (128,) * 6)
    gate_bias: float = -2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gate_bias < 0:
            raise ValueError(f"gate_bias must be negative, got {self.gate_bias}")

    def network(self) -> nn.Module:
        """The network."""
        layers: list[nn.Module] = []
        width = self.in_channels
        for at, stage in enumerate(self.stages):
            if at:
                layers.append(nn.MaxPool2d(2))
            for channels in stage:
                layers += self._layer(width, channels)
                width = channels
        layers += [_he(nn.Conv2d(width, width, 1)), nn.ReLU(inplace=True), GlobalPool()]
        return nn.Sequential(*layers, nn.Linear(width, self.num_classes))

    def _layer(self, inputs: int, outputs: int) -> list[nn.Module]:
        if inputs == outputs:
            return [HighwayConv(outputs, self.gate_bias)]
        return [_he(nn.Conv2d(inputs, outputs, 3, padding=1)), nn.ReLU(inplace=True)]


register_config("highway", HighwayConfig(), "The fully convolutional highway network of 19 layers.")
