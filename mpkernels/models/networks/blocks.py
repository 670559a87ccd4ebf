"""Residual blocks of the CIFAR networks; those of ImageNet are torchvision's.

A block maps `inputs` channels to `outputs` channels; `stride` is that of its first convolution and
of its shortcut.
"""

from __future__ import annotations

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """relu(s(x) + BN conv3x3 relu BN conv3x3 x), convolutions with bias.

    The shortcut s is the identity, or where the shape changes a 1x1 convolution with bias and
    without batch norm (option B). This is the block that gives the paper's parameter counts.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))  # type: ignore[no-any-return]


class PreactivationBlock(nn.Module):
    """s(x) + conv3x3 relu BN conv3x3 relu BN x, without biases: the block of Wide ResNets.

    The shortcut s is the identity, or where the shape changes a 1x1 convolution of relu BN x
    (Zagoruyko and Komodakis, arXiv 1605.07146).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        active = self.relu(self.bn1(x))
        y = self.branch(active)
        return y + (x if self.shortcut is None else self.shortcut(active))  # type: ignore[no-any-return]

    def branch(self, active: Tensor) -> Tensor:
        """conv3x3 relu BN conv3x3 of relu BN x."""
        return self.conv2(self.relu(self.bn2(self.conv1(active))))  # type: ignore[no-any-return]
