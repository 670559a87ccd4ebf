"""A network of capsules for 32x32 images.

Follows Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules" (2017): a 9x9 convolution of
256 channels with ReLU; primary capsules of 8 numbers, by a 9x9 convolution of stride 2; one capsule
of 16 numbers a class, three rounds of routing; the length of a capsule is the score of its class.
The loss is the margin loss, plus 0.0005 times the squared error of a decoder (512 and 1024 hidden
units) that sees the capsule of the right class alone (sections 3 and 4). For CIFAR10 (section 7):
64 types of primary capsules and a category "none of the above" in the softmax of routing.

Left out: patches of 24x24 pixels and the ensemble of 7 networks; images are whole, so there are
8x8 positions of primary capsules instead of 4x4. Changed: the decoder's last layer is linear, not a
sigmoid, because images arrive with mean 0 and deviation 1. On 28x28 images of one channel, with 32
types and without the further category, this is their MNIST network of 8.2 M parameters; on
32x32 colour images it is larger, since both the capsules' weights and the decoder grow with the
image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .capsule import CapsuleLayer, margin_loss, squash
from .config import Config
from .registry import register_config

PRIMARY_SIZE, CLASS_SIZE = 8, 16
KERNEL = 9


class CapsNet(nn.Module):
    """The network.

    Args:
        config: its options.
    """

    def __init__(self, config: CapsConfig) -> None:
        super().__init__()
        classes, pixels = config.num_classes, config.size**2
        self.stem = nn.Conv2d(config.in_channels, config.channels, KERNEL)
        self.primary = nn.Conv2d(
            config.channels, config.primary_types * PRIMARY_SIZE, KERNEL, stride=2
        )
        below = config.primary_types * config.grid**2
        self.classes = CapsuleLayer(
            below, PRIMARY_SIZE, classes, CLASS_SIZE, config.iterations, config.none
        )
        self.decoder = nn.Sequential(
            nn.Linear(classes * CLASS_SIZE, 512),
            nn.ReLU(),
            nn.Linear(512, 1024),
            nn.ReLU(),
            nn.Linear(1024, config.in_channels * pixels),
        )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Classifies images [B, C, H, W].

        Returns:
            lengths [B, num_classes]; in training (lengths, capsules [B, num_classes, 16], x), as
            `loss` needs them. Capsules are fp32 under autocast: routing adds thousands of them.
        """
        maps = self.primary(self.stem(x).relu())
        # Channels are ordered by type and then by number, so that a type is a group of 8 maps.
        u = maps.unflatten(1, (-1, PRIMARY_SIZE)).flatten(3).permute(0, 1, 3, 2).flatten(1, 2)
        with torch.autocast(x.device.type, enabled=False):
            capsules = self.classes(squash(u.to(self.classes.weight.dtype)))
        lengths = torch.linalg.vector_norm(capsules, dim=-1)
        return (lengths, capsules, x) if self.training else lengths

    def reconstruct(self, capsules: Tensor, target: Tensor) -> Tensor:
        """Images [B, C * H * W] of the capsules of the classes `target` alone.

        Args:
            capsules: [B, num_classes, 16].
            target: labels [B].
        """
        there = nn.functional.one_hot(target, capsules.shape[1]).to(capsules.dtype)
        images: Tensor = self.decoder((capsules * there.unsqueeze(-1)).flatten(1))
        return images

    def loss(self, output: Tensor | tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
        """The margin loss; of an output in training also 0.0005 times the squared error.

        Args:
            output: what `forward` returned.
            target: labels [B].
        """
        if isinstance(output, Tensor):
            return margin_loss(output, target)
        lengths, capsules, x = output
        error = (self.reconstruct(capsules, target) - x.flatten(1)).square().sum(1).mean()
        return margin_loss(lengths, target) + 0.0005 * error


@dataclass(frozen=True)
class CapsConfig(Config):
    """Sizes of the network, as the paper configures it for CIFAR10.

    Args:
        size: height and width of the images, at least 17.
        channels: of the first convolution.
        primary_types: of primary capsules; 32 for MNIST.
        iterations: of routing.
        none: whether the softmax of routing has a category "none of the above".
    """

    channels: int = 256
    primary_types: int = 64
    iterations: int = 3
    none: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("size", 17), ("iterations", 1), ("primary_types", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def grid(self) -> int:
        """Height and width of the maps of primary capsules."""
        return (self.size - 2 * (KERNEL - 1) - 1) // 2 + 1

    def network(self) -> nn.Module:
        """The network."""
        return CapsNet(self)


register_config("capsnet", CapsConfig(), "Capsules with dynamic routing, as Sabour et al. do.")
