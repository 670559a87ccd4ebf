"""WRN-40-2 whose kernels come from one small network: a static hypernetwork.

Follows Ha, Dai and Le, "HyperNetworks" (2016), section 3.1 and its WRN experiments: a 3x3 kernel of
16x16 channels is a two-layer linear function of an embedding z of 64 numbers,

    a_i = W_i z + B_i  for each input channel i,    K_i = W_out a_i + B_out,

where the whole network shares W_i and W_out; wider kernels are blocks of 16x16 side by side, each
with its own z. The first convolution, batch norms and the classifier keep parameters of their own.
The network is Zagoruyko and Komodakis's WRN-40-2 (2016): pre-activation blocks of two convolutions,
six in each of three stages of 32, 64 and 128 channels.

Left out: their training schedule, and dropout between the convolutions. Assumed: hidden vectors a
of 64 numbers, as long as z; shortcuts that change the shape average 2x2 positions and append zero
channels, which has no parameters (1x1 convolutions would add 10,752); embeddings
and generator start so that every kernel has the variance of He's initialisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, pad, relu

from .config import StacksConfig
from .registry import register_config

BASIC, EMBEDDING = 16, 64
WIDTHS = (32, 64, 128)


class KernelGenerator(nn.Module):
    """Maps embeddings [N, 64] to basic kernels [N, 16, 16, 3, 3] (output, input, rows, columns)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(EMBEDDING, BASIC * EMBEDDING)
        self.kernel = nn.Linear(EMBEDDING, BASIC * 9)
        nn.init.normal_(self.hidden.weight, std=EMBEDDING**-0.5)
        # An embedding of deviation 1 gives a kernel for 16 input channels.
        nn.init.normal_(self.kernel.weight, std=math.sqrt(2 / (9 * BASIC * EMBEDDING)))
        nn.init.zeros_(self.hidden.bias)
        nn.init.zeros_(self.kernel.bias)

    def forward(self, z: Tensor) -> Tensor:
        """The kernels of embeddings z."""
        a = self.hidden(z).unflatten(-1, (BASIC, EMBEDDING))
        return self.kernel(a).unflatten(-1, (BASIC, 3, 3)).transpose(1, 2)  # type: ignore[no-any-return]


class HyperConv2d(nn.Module):
    """A 3x3 convolution whose only parameters are embeddings z [outputs / 16, inputs / 16, 64].

    Args:
        inputs, outputs: channels, multiples of 16.
        stride: stride of the convolution.

    Raises:
        ValueError: a number of channels is not a multiple of 16.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        if inputs % BASIC or outputs % BASIC:
            raise ValueError(f"channels must be multiples of {BASIC}, got {inputs} and {outputs}")
        self.z = nn.Parameter(torch.empty(outputs // BASIC, inputs // BASIC, EMBEDDING))
        nn.init.normal_(self.z, std=math.sqrt(BASIC / inputs))
        self.stride = stride

    def weight(self, generator: KernelGenerator) -> Tensor:
        """The kernel [outputs, inputs, 3, 3], whose block (r, c) comes from z[r, c]."""
        rows, columns, _ = self.z.shape
        blocks = generator(self.z.flatten(0, 1)).unflatten(0, (rows, columns))
        return blocks.transpose(1, 2).reshape(rows * BASIC, columns * BASIC, 3, 3)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, generator: KernelGenerator) -> Tensor:
        """Convolves [B, inputs, H, W]."""
        return conv2d(x, self.weight(generator), stride=self.stride, padding=1)


class HyperBlock(nn.Module):
    """Twice batch norm, ReLU and convolution, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = HyperConv2d(inputs, outputs, stride)
        self.conv2 = HyperConv2d(outputs, outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: Tensor, generator: KernelGenerator) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        active = relu(self.norm1(x))
        y = self.conv2(relu(self.norm2(self.conv1(active, generator))), generator)
        if self.stride > 1 or self.more:
            x = pad(avg_pool2d(active, self.stride), (0, 0, 0, 0, 0, self.more))
        return x + y  # type: ignore[no-any-return]


class HyperWRN(nn.Module):
    """The Wide ResNet with generated kernels.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        depth: blocks per stage.
    """

    def __init__(self, num_classes: int, in_channels: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, BASIC, 3, padding=1, bias=False)
        self.generator = KernelGenerator()
        self.blocks = nn.ModuleList()
        width = BASIC
        for stage, channels in enumerate(WIDTHS):
            for at in range(depth):
                stride = 2 if stage and not at else 1
                self.blocks.append(HyperBlock(width, channels, stride))
                width = channels
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, num_classes]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, self.generator)
        return self.classifier(relu(self.norm(x)).mean((2, 3)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class HyperConfig(StacksConfig):
    """Sizes of the network."""

    depth: int = 6

    def network(self) -> nn.Module:
        """The network."""
        return HyperWRN(self.num_classes, self.in_channels, self.depth)


register_config("hyper_wrn40_2", HyperConfig(), "WRN-40-2 with kernels from a static hypernetwork.")
