"""ResNets whose blocks may be left out, for each image on its own."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .blocks import BasicBlock
from .resnet_cifar import ResNetConfig


class SkippableBlock(BasicBlock):
    """relu(s(x) + keep F(x)): a residual block F that is computed for some images only.

    An image that does not keep the block passes through the shortcut s alone. Where s is the
    identity that is x itself, which is no less than 0 behind the block before.
    """

    def branch(self, x: Tensor) -> Tensor:
        """F(x), without shortcut."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(y))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """One block.

        Args:
            x: [B, inputs, H, W].
            keep: factor of F for each image, [B]; None keeps the block for all.

        Returns:
            [B, outputs, H / stride, W / stride]. In training F is computed for all images, so that
            batch norm sees the whole batch and every factor has a gradient; in evaluation for
            those alone whose factor is not 0.
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
        config: of a ResNet of basic blocks.
        block: makes one of (inputs, outputs, stride).
    """
    blocks = nn.ModuleList()
    widths = config.widths()
    for at, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        blocks.append(block(inputs, outputs, 2 if at else 1))
        blocks.extend(block(outputs, outputs, 1) for _ in range(config.depth - 1))
    return blocks


class SkippableResNet(nn.Module):
    """A CIFAR ResNet, each of its blocks kept or not by an argument."""

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
