"""Capsules, vectors whose length is a probability, and a network of them for 32x32 images.

Follows Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules" (2017). Equations 1 to 4 and
procedure 1 are its own; B batch, I capsules below of D numbers, J capsules above of E numbers.

The network: a 9x9 convolution of 256 channels with ReLU; primary capsules of 8 numbers, from a 9x9
convolution of stride 2; one capsule of 16 numbers per class, three rounds of routing; the length of
a capsule is the score of its class. The loss is the margin loss, plus 0.0005 times the squared
error of a decoder (512 and 1024 hidden units) that sees the capsule of the right class alone
(sections 3 and 4). For CIFAR10 (section 7): 64 types of primary capsules and a category "none of
the above" in the softmax of routing.

Left out: patches of 24x24 pixels and the ensemble of 7 networks; images are whole, so there are
8x8 positions of primary capsules instead of 4x4. Changed: the decoder's last layer is linear, not a
sigmoid, because images arrive with mean 0 and deviation 1. On 28x28 images of one channel, with 32
types and without the further category, this is their MNIST network of 8.2 M parameters; on
32x32 colour images it is larger, since both the capsules' weights and the decoder grow with the
image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad, relu

from .config import Config
from .registry import register_config

PRIMARY_SIZE, CLASS_SIZE = 8, 16
KERNEL = 9


def squash(s: Tensor) -> Tensor:
    """Keeps the direction of vectors [..., E] and shrinks their length below 1 (equation 1).

    v = |s|^2 / (1 + |s|^2) * s / |s|, written without the division by |s|, which fails at 0.
    """
    square = s.square().sum(-1, keepdim=True)
    # The smallest normal number keeps the gradient of the root finite where s is 0.
    return s * (square + torch.finfo(s.dtype).tiny).sqrt() / (1 + square)


def coupling(b: Tensor, none: bool) -> Tensor:
    """Routing coefficients c [B, I, J] of log priors b [B, I, J]: a softmax over J (equation 3).

    With `none`, a capsule may also belong to none of the J: a further, never updated log prior of
    0 takes part in the softmax, and the J coefficients then sum to less than 1.
    """
    return pad(b, (0, 1)).softmax(-1)[..., :-1] if none else b.softmax(-1)


def route(u: Tensor, iterations: int, none: bool = False) -> tuple[Tensor, Tensor]:
    """Routing by agreement (procedure 1).

    Args:
        u: predictions [B, J, I, E], of capsule i below for capsule j above.
        iterations: rounds, at least 1; the coefficients of the first are all equal.
        none: see `coupling`.

    Returns:
        capsules v [B, J, E] and the last coefficients [B, I, J].
    """
    batch, above, below, _ = u.shape
    b = u.new_zeros(batch, below, above)
    for last in [False] * (iterations - 1) + [True]:
        c = coupling(b, none)
        v = squash((c.transpose(1, 2).unsqueeze(2) @ u).squeeze(2))
        if not last:
            b = b + (u @ v.unsqueeze(-1)).squeeze(-1).transpose(1, 2)
    return v, c


class CapsuleLayer(nn.Module):
    """Capsules fully connected to those below: u_ij = W_ij u_i, then routing.

    Args:
        below, below_size: I and D.
        above, above_size: J and E.
        iterations: of routing.
        none: whether a capsule may be routed to none of those above.
    """

    def __init__(
        self,
        below: int,
        below_size: int,
        above: int,
        above_size: int,
        iterations: int = 3,
        none: bool = False,
    ) -> None:
        super().__init__()
        self.above, self.iterations, self.none = above, iterations, none
        self.weight = nn.Parameter(torch.empty(below, below_size, above * above_size))
        # The first round adds 1 / J of each of I predictions; with this deviation s is about as
        # long as a capsule below.
        nn.init.normal_(self.weight, std=above / math.sqrt(below * above_size))

    def predict(self, u: Tensor) -> Tensor:
        """Capsules [B, I, D] to predictions [B, J, I, E]."""
        together = torch.bmm(u.transpose(0, 1), self.weight)
        predictions: Tensor = together.unflatten(-1, (self.above, -1))
        return predictions.permute(1, 2, 0, 3).contiguous()

    def forward(self, u: Tensor) -> Tensor:
        """Capsules [B, I, D] to capsules [B, J, E]."""
        return route(self.predict(u), self.iterations, self.none)[0]


def margin_loss(lengths: Tensor, target: Tensor) -> Tensor:
    """Penalises short capsules of the class in the image and long ones of others (equation 4).

    T_k max(0, 0.9 - |v_k|)^2 + 0.5 (1 - T_k) max(0, |v_k| - 0.1)^2, summed over classes k; the mean
    over the batch.

    Args:
        lengths: [B, classes].
        target: labels [B].
    """
    there = one_hot(target, lengths.shape[1])
    missed, seen = relu(0.9 - lengths).square(), relu(lengths - 0.1).square()
    loss: Tensor = (there * missed + 0.5 * (1 - there) * seen).sum(1).mean()
    return loss


class CapsNet(nn.Module):
    """A network of capsules.

    Args:
        config: its options.
    """

    def __init__(self, config: CapsConfig) -> None:
        super().__init__()
        classes, pixels = config.num_classes, config.size**2
        self.deviation = config.deviation
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
            `loss` needs them. Capsules stay fp32 under autocast, as routing adds thousands of them.
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
        there = one_hot(target, capsules.shape[1]).to(capsules.dtype)
        images: Tensor = self.decoder((capsules * there.unsqueeze(-1)).flatten(1))
        return images

    def loss(self, output: Tensor | tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
        """The margin loss, plus 0.0005 times the decoder's squared error in training.

        The error is that of pixels from 0 to 1, though images are normalised: those have errors
        1 / deviation^2 times as large, which would outweigh the margin loss.

        Args:
            output: what `forward` returned.
            target: labels [B].
        """
        if isinstance(output, Tensor):
            return margin_loss(output, target)
        lengths, capsules, x = output
        error = (self.reconstruct(capsules, target) - x.flatten(1)).square().sum(1).mean()
        return margin_loss(lengths, target) + 0.0005 * self.deviation**2 * error


@dataclass(frozen=True)
class CapsConfig(Config):
    """Sizes of the network, as the paper configures it for CIFAR10.

    Args:
        size: height and width of the images, at least 17.
        channels: channels of the first convolution.
        primary_types: types of primary capsules; 32 for MNIST.
        iterations: rounds of routing.
        none: whether the softmax of routing has a category "none of the above".
        deviation: the deviation of pixels from 0 to 1, by which images were divided as they were
            normalised.
    """

    channels: int = 256
    primary_types: int = 64
    iterations: int = 3
    none: bool = True
    deviation: float = 0.25  # about that of CIFAR10

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(17, "size")
        self._at_least(1, "iterations", "primary_types")
        if not self.deviation > 0:
            raise ValueError(f"deviation must be above 0, got {self.deviation}")

    @property
    def grid(self) -> int:
        """Height and width of the maps of primary capsules."""
        return (self.size - 2 * (KERNEL - 1) - 1) // 2 + 1

    def network(self) -> nn.Module:
        """The network."""
        return CapsNet(self)


register_config("capsnet", CapsConfig(), "Capsules with dynamic routing, as Sabour et al. do.")
