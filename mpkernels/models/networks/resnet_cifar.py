"""ResNets for 32x32 images, with one path and with routers between their stacks.

A network is a stem of 16 channels, three stacks of N blocks with 16, 32 and 64 channels (times the
width, and times 4 for bottlenecks), a global average and one dense layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from .blocks import BasicBlock, PreactivationBlock
from .config import PathsConfig
from .layers import GlobalPool, Parallel, Routed, Unrouted
from .registry import register_config

STEM = 16
BLOCKS = ("basic", "bottleneck", "preactivation")


@dataclass(frozen=True)
class ResNetConfig(PathsConfig):
    """Sizes of a CIFAR ResNet.

    Args:
        depth: N, blocks per stack.
        block: "basic" (the only one with routers), "bottleneck" (torchvision's) or
            "preactivation" (that of Wide ResNets).
        widen: factor on the widths of the stacks.
    """

    depth: int = 3
    block: str = "basic"
    widen: int = 1

    ALLOWED = ("cc", "cp")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "depth", "widen")
        if self.block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {self.block!r}")
        if self.kind is not None and self.block != "basic":
            raise ValueError(f'kind {self.kind!r} needs block "basic", got {self.block!r}')

    def widths(self) -> list[int]:
        """Channels behind the stem and behind each stack."""
        expansion = 4 if self.block == "bottleneck" else 1
        return [STEM, *(STEM * 2**at * self.widen * expansion for at in range(3))]

    def stem(self) -> list[nn.Module]:
        """The first convolution, with batch norm and ReLU unless the blocks start with them."""
        bias = self.block == "basic"
        layers: list[nn.Module] = [nn.Conv2d(self.in_channels, STEM, 3, 1, 1, bias=bias)]
        if self.block != "preactivation":
            layers += [nn.BatchNorm2d(STEM), nn.ReLU(inplace=True)]
        return layers

    def stack(self, at: int) -> list[nn.Module]:
        """The blocks of stack 0, 1 or 2; stacks 1 and 2 begin by halving the size."""
        inputs, outputs = self.widths()[at : at + 2]
        stride = 2 if at else 1
        first = self._block(inputs, outputs, stride)
        return [first, *(self._block(outputs, outputs, 1) for _ in range(self.depth - 1))]

    def _block(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        if self.block == "bottleneck":
            from torchvision.models.resnet import Bottleneck

            shortcut = None
            if inputs != outputs or stride != 1:
                convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))
            block: nn.Module = Bottleneck(inputs, outputs // 4, stride, shortcut)
            return block
        kind = BasicBlock if self.block == "basic" else PreactivationBlock
        return kind(inputs, outputs, stride)

    def end(self) -> list[nn.Module]:
        """The global average behind the last stack, and what the blocks left to do before it."""
        width = self.widths()[-1]
        active = [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        return [*(active if self.block == "preactivation" else []), GlobalPool()]

    def head(self) -> list[nn.Module]:
        """The classifier; it pools maps that are not pooled yet."""
        return [GlobalPool(), nn.Linear(self.widths()[-1], self.num_classes)]

    def network(self) -> nn.Module:
        """Paths without routers, or with routers of the kind between them."""
        if self.kind == "cc":
            return _connected(self)
        if self.kind == "cp":
            return _predicted(self)
        return Unrouted(self.paths, lambda: _path(self), self.average)


def _path(config: ResNetConfig) -> nn.Module:
    stacks = [nn.Sequential(*config.stack(at)) for at in range(3)]
    return nn.Sequential(nn.Sequential(*config.stem()), *stacks, *config.end(), *config.head()[1:])


def _stack(config: ResNetConfig, at: int, classify: bool = False) -> nn.Module:
    """One stack; behind the last one maps are pooled before the router, see `GlobalPool`."""
    end = config.end() if at == 2 else []
    return nn.Sequential(*config.stack(at), *end, *(config.head()[1:] if classify else []))


def _connected(config: ResNetConfig) -> Routed:
    """One stem, a router from it to all paths, and a router behind each stack."""
    paths = config.paths
    stages = []
    for at, width in enumerate(config.widths()[:3]):
        segment = Parallel(paths, partial(_stack, config, at))
        stages.append((config.connect(width, paths if at else 1), segment))
    last = config.connect(config.widths()[3], paths)
    stages.append((last, Parallel(paths, lambda: nn.Sequential(*config.head()))))
    return Routed(stages, nn.Sequential(*config.stem()), config.average)


def _predicted(config: ResNetConfig) -> Routed:
    """Routers replace the stem and precede the second and third stack."""
    paths = config.paths
    stages = []
    for at, width in enumerate(config.widths()[:3]):
        router = config.predict(width if at else config.in_channels, width, paths if at else 1)
        stages.append((router, Parallel(paths, partial(_stack, config, at, at == 2))))
    return Routed(stages, average=config.average)


for _layers in (20, 32, 44, 56, 110):
    _config = ResNetConfig(depth=(_layers - 2) // 6)
    register_config(f"resnet{_layers}", _config, f"ResNet{_layers} for CIFAR.")
    for _kind, _word in (("cc", "cross-connected"), ("cp", "cross-predicted")):
        for _paths in (2, 3, 4) if _layers == 20 or (_layers, _kind) == (32, "cc") else ():
            register_config(
                f"resnet{_layers}_{_paths}_{_kind}",
                replace(_config, paths=_paths, kind=_kind),
                f"ResNet{_layers} for CIFAR with {_paths} {_word} paths.",
            )
register_config(
    "resnet164",
    ResNetConfig(depth=18, block="bottleneck"),
    "ResNet164 for CIFAR (bottlenecks).",
)
register_config(
    "wrn_40_2", ResNetConfig(depth=6, block="preactivation", widen=2), "Wide ResNet 40-2 for CIFAR."
)
