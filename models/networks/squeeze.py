"""Networks with squeeze and excitation: each channel of a map is scaled by what the map holds.

    s = sigmoid(W2 relu(W1 z)),  z the mean of X over H, W;    Y = s X, channel by channel

Follows Hu, Shen and Sun, "Squeeze-and-Excitation Networks" (2017): equations 2 to 4, a reduction of
16, and in residual blocks the scaling of the branch before the shortcut is added (figure 3). Both
dense layers have biases.

SEBaseCNN and SEDeepCNN scale the result of every convolution, behind batch norm and ReLU. The
paper's two counts do not follow from one rule, so `squeeze` offers, besides the reduction of 16,
rules that give one of them each:

| squeeze | hidden units of a layer of C channels | trainable | paper |
|---|---|---|---|
| "reduce16" | C / 16 | SEBaseCNN 557,446; SEDeepCNN 2,078,654 | 0.58 M; 2.06 M |
| "quarter" | max(C / 4, 16) | SEBaseCNN 574,698 | 0.58 M with running statistics |
| "hidden32" | 32 | SEBaseCNN 580,906 | 0.58 M |
| "ends" | C / 16, the last layer of each stage only | SEDeepCNN 2,056,616 | 2.06 M |

SEResNet110 has convolutions without bias and shortcuts by 1x1 convolutions without batch norm; with
that its count is the quoted 1,744,760 exactly.

Left out: nothing of the block; the training schedules and weight decay of Hu et al.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from .basecnn import BASECNN, DEEPCNN
from .cnn import CNNConfig
from .config import Config
from .layers import GlobalPool
from .registry import register_config

# Hidden units of (channels, whether the layer is the last of its stage); 0 is no scaling.
RULES: dict[str, Callable[[int, bool], int]] = {
    "reduce16": lambda channels, last: max(channels // 16, 1),
    "quarter": lambda channels, last: max(channels // 4, 16),
    "hidden32": lambda channels, last: 32,
    "ends": lambda channels, last: max(channels // 16, 1) if last else 0,
}


class SqueezeExcite(nn.Module):
    """Scales the channels of [B, C, H, W] by numbers between 0 and 1.

    Args:
        channels: C.
        hidden: units of the layer in between.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            GlobalPool(),
            nn.Linear(channels, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W]."""
        return x * self.scale(x)[:, :, None, None]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SECNNConfig(CNNConfig):
    """A plain convolutional network with squeeze and excitation.

    Args:
        squeeze: which layers are scaled, by how many hidden units: see the table of this module.
    """

    squeeze: str = "reduce16"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.squeeze not in RULES:
            raise ValueError(f"squeeze must be one of {', '.join(RULES)}, got {self.squeeze!r}")

    def _stage(self, at: int) -> list[nn.Module]:
        layers = super()._stage(at)
        widths = self.stages[at]
        scaled: list[nn.Module] = []
        for place, channels in enumerate(widths):
            scaled.append(layers[place])
            hidden = RULES[self.squeeze](channels, place == len(widths) - 1)
            if hidden:
                scaled.append(SqueezeExcite(channels, hidden))
        return [*scaled, *layers[len(widths) :]]


class SEBlock(nn.Module):
    """relu(s(x) + SE(BN conv3x3 relu BN conv3x3 x)), no convolution with bias."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            SqueezeExcite(outputs, max(outputs // 16, 1)),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        return (self.shortcut(x) + self.branch(x)).relu()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SEResNetConfig(Config):
    """A CIFAR ResNet with squeeze and excitation.

    Args:
        depth: blocks of each of the three stacks.
    """

    depth: int = 18

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}")

    def network(self) -> nn.Module:
        """The network."""
        width = 16
        layers: list[nn.Module] = [
            nn.Conv2d(self.in_channels, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        for at, channels in enumerate((16, 32, 64)):
            for place in range(self.depth):
                layers.append(SEBlock(width, channels, 2 if at and not place else 1))
                width = channels
        return nn.Sequential(*layers, GlobalPool(), nn.Linear(width, self.num_classes))


register_config(
    "se_basecnn",
    SECNNConfig(stages=BASECNN.stages),
    "BaseCNN with squeeze and excitation behind every convolution.",
)
register_config(
    "se_deepcnn",
    SECNNConfig(stages=DEEPCNN.stages),
    "DeepCNN with squeeze and excitation behind every convolution.",
)
register_config("se_resnet110", SEResNetConfig(), "ResNet110 with squeeze and excitation.")
