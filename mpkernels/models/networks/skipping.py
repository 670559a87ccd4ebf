"""ResNets whose blocks may be skipped, a decision per image, and the numbers to draw it with."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .blocks import BasicBlock
from .resnet_cifar import ResNetConfig


class Draws(nn.Module):
    """Uniform numbers that depend on a seed, the number of draws so far and the process.

    Seed and number are part of the state_dict, so that training resumed from a checkpoint repeats
    the uninterrupted one. The seed comes from torch's generator when the network is built.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.drawn = int(torch.randint(2**31, (), device="cpu")), 0

    def forward(self, *shape: int, device: torch.device) -> Tensor:
        """The next numbers, float32 in (0, 1), the same on every device."""
        # Processes that train together see different images and need different numbers.
        rank = dist.get_rank() if dist.is_initialized() else 0
        key = (self.seed * 1_000_003 + self.drawn + rank * 1_000_000_007) % 2**63
        self.drawn += 1
        numbers = torch.rand(shape, generator=torch.Generator().manual_seed(key), device="cpu")
        return numbers.clamp(2**-24, 1 - 2**-24).to(device)

    def get_extra_state(self) -> Tensor:
        """[seed, draws so far]."""
        return torch.tensor([self.seed, self.drawn], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on where `state` was taken."""
        self.seed, self.drawn = (int(value) for value in state)


class SkippableBlock(BasicBlock):
    """relu(s(x) + keep F(x)): a residual block F computed for some images only.

    An image that skips the block passes through the shortcut s alone. If s is the identity the
    image passes unchanged; it is already >= 0.
    """

    def branch(self, x: Tensor) -> Tensor:
        """F(x), without shortcut."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(y))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """One block.

        Args:
            x: [B, inputs, H, W].
            keep: factor of F for each image, [B]; None keeps the block for all images.

        Returns:
            [B, outputs, H / stride, W / stride]. Training computes F for all images, so that
            batch norm sees the whole batch and every factor has a gradient; evaluation computes
            it only where the factor is not 0.
        """
        shortcut: Tensor = self.shortcut(x)
        if keep is None:
            return self.relu(shortcut + self.branch(x))  # type: ignore[no-any-return]
        factor = keep.to(x.dtype).view(-1, 1, 1, 1)
        if self.training:
            return self.relu(shortcut + factor * self.branch(x))  # type: ignore[no-any-return]
        kept = keep.nonzero().flatten()
        if len(kept) == 0:
            return x if isinstance(self.shortcut, nn.Identity) else shortcut.relu()
        if len(kept) == len(keep):
            return self.relu(shortcut + factor * self.branch(x))  # type: ignore[no-any-return]
        part = factor[kept] * self.branch(x[kept])
        return self.relu(shortcut.index_add(0, kept, part.to(shortcut.dtype)))  # type: ignore[no-any-return]


def skippable_blocks(
    config: ResNetConfig, block: Callable[[int, int, int], nn.Module] = SkippableBlock
) -> nn.ModuleList:
    """The blocks of all three stacks, in order.

    Args:
        config: a ResNet of basic blocks.
        block: builds a block from (inputs, outputs, stride).
    """
    blocks = nn.ModuleList()
    widths = config.widths()
    for at, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        blocks.append(block(inputs, outputs, 2 if at else 1))
        blocks.extend(block(outputs, outputs, 1) for _ in range(config.depth - 1))
    return blocks


class SkippableResNet(nn.Module):
    """A CIFAR ResNet; an argument tells which of its blocks to keep."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.stem = nn.Sequential(*config.stem())
        self.blocks = skippable_blocks(config)
        self.head = nn.Sequential(*config.head())

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Images [B, C, H, W] and decisions [B, blocks] (None keeps all) to logits."""
        x = self.stem(x)
        for at, block in enumerate(self.blocks):
            x = block(x, None if keep is None else keep[:, at])
        return self.head(x)  # type: ignore[no-any-return]
