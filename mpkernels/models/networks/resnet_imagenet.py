"""ResNets for 224x224 images: torchvision's, and cross-connected paths of its stacks (Table 4).

The networks that the paper trains on the first 100 classes of ImageNet have 100 classes here, the
others 1000. Their parameters have torchvision's names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from .config import PathsConfig
from .layers import GlobalPool, Parallel, Routed, Unrouted
from .registry import register_config


@dataclass(frozen=True)
class ImageNetConfig(PathsConfig):
    """Sizes of an ImageNet ResNet.

    Args:
        blocks: number of blocks in each of the four stacks.
        bottleneck: whether blocks have 1x1, 3x3 and 1x1 convolutions rather than two 3x3.
        groups: groups of the bottlenecks' 3x3 convolutions.
        group_width: channels per group of theirs in the first stack.
        widen: factor on the channels of basic blocks.
    """

    num_classes: int = 1000
    size: int = 224
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    groups: int = 1
    group_width: int = 64
    widen: float = 1.0

    ALLOWED = ("cc",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.blocks) != 4 or min(self.blocks) < 1:
            raise ValueError(f"blocks must be four positive numbers, got {self.blocks}")
        if self.bottleneck and self.widen != 1:
            raise ValueError(f"widen is for basic blocks; set group_width, got {self.widen}")

    def member(self) -> Any:
        """One path as torchvision's ResNet."""
        from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

        widen = self.widen

        class Widened(ResNet):  # type: ignore[misc]
            def _make_layer(self, block: Any, planes: int, *more: Any, **options: Any) -> Any:
                return super()._make_layer(block, round(planes * widen), *more, **options)

        net = (ResNet if widen == 1 else Widened)(
            Bottleneck if self.bottleneck else BasicBlock, list(self.blocks), self.num_classes,
            groups=self.groups, width_per_group=self.group_width,
        )  # fmt: skip
        if self.in_channels != 3:
            net.conv1 = nn.Conv2d(self.in_channels, 64, 7, 2, 3, bias=False)
        if widen != 1:
            net.fc = nn.Linear(net.inplanes, self.num_classes)
        return net

    def network(self) -> nn.Module:
        """One ResNet of torchvision, several averaged, or several cross-connected."""
        if self.kind is None:
            single = self.paths == 1
            return self.member() if single else Unrouted(self.paths, self.member, self.average)  # type: ignore[no-any-return]
        return _connected(self)


def _connected(config: ImageNetConfig) -> Routed:
    """One stem, a router from it to all paths, and a router behind each stack.

    The last router mixes pooled maps, see `GlobalPool`.
    """
    members = [config.member() for _ in range(config.paths)]
    first = members[0]
    stem = nn.Sequential(first.conv1, first.bn1, first.relu, first.maxpool)
    parts: list[list[list[nn.Module]]] = [
        [[net.layer1] for net in members],
        [[net.layer2] for net in members],
        [[net.layer3] for net in members],
        [[net.layer4, GlobalPool()] for net in members],
        [[GlobalPool(), net.fc] for net in members],
    ]
    full = first.fc.in_features
    widths = [64, full // 8, full // 4, full // 2, full]
    stages = []
    for at, (width, layers) in enumerate(zip(widths, parts)):
        paths = iter(layers)
        segment = Parallel(config.paths, lambda paths=paths: nn.Sequential(*next(paths)))  # type: ignore[misc]
        stages.append((config.connect(width, config.paths if at else 1), segment))
    return Routed(stages, stem, config.average)


_THREE_FOUR_SIX = (3, 4, 6, 3)
_RESNET50 = ImageNetConfig(num_classes=100, blocks=_THREE_FOUR_SIX, bottleneck=True)

register_config("resnet18", ImageNetConfig(), "ResNet18.")
register_config("resnet34", ImageNetConfig(blocks=_THREE_FOUR_SIX), "ResNet34.")
register_config("wrn_18_1_5", ImageNetConfig(widen=1.5), "ResNet18 with stacks 1.5 times as wide.")
register_config("resnet50", _RESNET50, "ResNet50, 100 classes.")
register_config("resnet101", replace(_RESNET50, blocks=(3, 4, 23, 3)), "ResNet101, 100 classes.")
register_config(
    "wide_resnet50_2",
    replace(_RESNET50, group_width=128),
    "ResNet50 with 3x3 convolutions twice as wide, 100 classes.",
)
register_config(
    "resnext50_2_64",
    replace(_RESNET50, groups=2),
    "ResNeXt50 with 2 groups of 64 channels, 100 classes.",
)
register_config(
    "resnet18_2_cc",
    ImageNetConfig(paths=2, kind="cc"),
    "ResNet18 with 2 cross-connected paths.",
)
register_config(
    "resnet50_2_cc",
    replace(_RESNET50, paths=2, kind="cc"),
    "ResNet50 with 2 cross-connected paths, 100 classes.",
)
