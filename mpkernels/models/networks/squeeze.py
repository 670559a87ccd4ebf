"""Networks with squeeze and excitation: the map itself decides how each of its channels scales.

    s = sigmoid(W2 relu(W1 z)),  z the mean of X over H, W;    Y = s X, channel by channel

Follows Hu, Shen and Sun, "Squeeze-and-Excitation Networks" (2017): equations 2 to 4, a reduction of
16, and residual blocks that scale the branch before adding the shortcut (figure 3). Both dense
layers have biases.

SEBaseCNN and SEDeepCNN scale the result of every convolution, behind batch norm and ReLU. No single
rule gives the paper's two parameter counts. The default is the reduction of 16; each of the other
rules reproduces one count:

| squeeze | hidden units of a layer of C channels | trainable | paper |
|---|---|---|---|
| "reduce16" | C / 16 | SEBaseCNN 557,446; SEDeepCNN 2,078,654 | 0.58 M; 2.06 M |
| "quarter" | max(C / 4, 16) | SEBaseCNN 574,698 | 0.58 M with running statistics |
| "hidden32" | 32 | SEBaseCNN 580,906 | 0.58 M |
| "ends" | C / 16, the last layer of each stage only | SEDeepCNN 2,056,616 | 2.06 M |

SEResNet110 is "built using ResNet110 with identity mappings": of pre-activation blocks, whose
convolutions have no bias and whose shortcuts are identities, or 1x1 convolutions where the shape
changes. Its count, 1,744,760, rounds to the quoted 1.7 M.

Left out: nothing of the block; the training schedules and weight decay of Hu et al.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from .basecnn import BASECNN, DEEPCNN
from .blocks import PreactivationBlock
from .cnn import CNNConfig
from .config import StacksConfig
from .layers import GlobalPool
from .registry import register_config

# Maps (channels, whether the layer is the last of its stage) to hidden units; 0 means no scaling.
RULES: dict[str, Callable[[int, bool], int]] = {
    "reduce16": lambda channels, last: max(channels // 16, 1),
    "quarter": lambda channels, last: max(channels // 4, 16),
    "hidden32": lambda channels, last: 32,
    "ends": lambda channels, last: max(channels // 16, 1) if last else 0,
}


class SqueezeExcite(nn.Module):
    """Scales each channel of [B, C, H, W] by a number between 0 and 1.

    Args:
        channels: C.
        hidden: units of the hidden layer.
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
        """The scaled maps, [B, C, H, W]."""
        return x * self.scale(x)[:, :, None, None]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SECNNConfig(CNNConfig):
    """A plain convolutional network with squeeze and excitation.

    Args:
        squeeze: the rule for the hidden units of each layer, see the table of this module.
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


class SEBlock(PreactivationBlock):
    """s(x) + SE(conv3x3 relu BN conv3x3 relu BN x): the branch is scaled before it is added."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, stride)
        self.scale = SqueezeExcite(outputs, max(outputs // 16, 1))

    def branch(self, active: Tensor) -> Tensor:
        """SE(conv3x3 relu BN conv3x3) of relu BN x."""
        return self.scale(super().branch(active))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SEResNetConfig(StacksConfig):
    """A CIFAR ResNet with squeeze and excitation."""

    def network(self) -> nn.Module:
        """The network."""
        width = 16
        layers: list[nn.Module] = [nn.Conv2d(self.in_channels, width, 3, 1, 1, bias=False)]
        for at, channels in enumerate((16, 32, 64)):
            for place in range(self.depth):
                layers.append(SEBlock(width, channels, 2 if at and not place else 1))
                width = channels
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True), GlobalPool()]
        return nn.Sequential(*layers, nn.Linear(width, self.num_classes))


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
