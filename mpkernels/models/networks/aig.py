"""ConvNet-AIG: a ResNet whose blocks decide for each image whether to take part.

    x <- relu(s(x) + z F(x)),    z in {0, 1} from beta = W2 relu(BN(W1 mean over H, W of x))

Follows Veit and Belongie, "Convolutional Networks with Adaptive Inference Graphs" (2018), its
section 3: gates of 16 hidden units, z by Gumbel-softmax at temperature 1, hard forward and soft
backward, and besides cross-entropy the mean over blocks of (open rate in the batch - t)^2. In
evaluation the larger of the two scores decides, and closed blocks are not computed.

"ConvNet-AIG all" is taken to be the same network that evaluates every block and scales F by how
often its gate was open, as after training with stochastic depth; that rate is averaged over
training batches as batch norm averages its statistics.

Left out: weight decay and the choice of different target rates for single blocks. The ResNet is
this package's (convolutions with bias, 1x1 shortcuts without batch norm). Assumed: a weight of 1
for the rate's part of the loss, and scores (0.1, 2) for closed and open at the start, so that about
87 of 100 gates begin open.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .config import StacksConfig
from .registry import register_config
from .resnet_cifar import ResNetConfig
from .skipping import Draws, SkippableBlock, skippable_blocks

EXECUTE = ("gated", "all")


def gumbel_gate(scores: Tensor, uniform: Tensor) -> Tensor:
    """Samples gates of exactly 0 or 1 that have the gradient of a softmax.

    Args:
        scores: [B, 2], of closed and open.
        uniform: [B, 2], numbers in (0, 1).

    Returns:
        [B], 1 where open plus noise is the larger; the noise is -log(-log uniform).
    """
    noisy = scores.float() - (-uniform.log()).log()
    soft = noisy.softmax(1)[:, 1]
    hard = (noisy[:, 1] > noisy[:, 0]).to(soft.dtype)
    return hard + (soft - soft.detach())


class GatedBlock(SkippableBlock):
    """A residual block and the gate that decides whether it takes part."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, stride)
        last = nn.Linear(16, 2)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.1, 2.0]))
        self.gate = nn.Sequential(nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), last)

    def scores(self, x: Tensor) -> Tensor:
        """Scores [B, 2] of closed and open for maps [B, inputs, H, W]."""
        return self.gate(x.mean((2, 3)))  # type: ignore[no-any-return]


class AIGResNet(nn.Module):
    """A ResNet with a gate per block.

    Args:
        config: its options.
    """

    rate: Tensor

    def __init__(self, config: AIGConfig) -> None:
        super().__init__()
        plan = config.plan()
        self.stem = nn.Sequential(*plan.stem())
        self.blocks = skippable_blocks(plan, GatedBlock)
        self.head = nn.Sequential(*plan.head())
        self.draws = Draws()
        self.register_buffer("rate", torch.full((len(self.blocks),), 0.87))
        self.execute, self.target_rate = config.execute, config.target_rate
        self.rate_weight = config.rate_weight

    def _gate(self, block: nn.Module, x: Tensor, at: int, uniform: Tensor | None) -> Tensor:
        if uniform is not None:
            return gumbel_gate(block.scores(x), uniform[at])  # type: ignore[operator]
        if self.execute == "all":
            return self.rate[at].expand(len(x))
        scores: Tensor = block.scores(x)  # type: ignore[operator]
        return (scores[:, 1] > scores[:, 0]).to(x.dtype)

    def forward(self, x: Tensor, return_gates: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Classifies images [B, C, H, W].

        Returns:
            logits [B, num_classes]; in training, as `loss` needs them, or with `return_gates`
            (logits, gates [B, blocks]).
        """
        uniform = None
        if self.training:
            uniform = self.draws(len(self.blocks), len(x), 2, device=x.device)
        x, gates = self.stem(x), []
        for at, block in enumerate(self.blocks):
            gates.append(self._gate(block, x, at, uniform))
            x = block(x, gates[-1])
        logits, z = self.head(x), torch.stack(gates, 1)
        if self.training:
            self.rate.lerp_(z.detach().mean(0).to(self.rate.dtype), 0.1)
        return (logits, z) if self.training or return_gates else logits

    def loss(self, output: Tensor | tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        """Cross-entropy, plus the squared distance to the target rate if the output has gates.

        Args:
            output: what `forward` returned.
            target: labels [B].
        """
        if isinstance(output, Tensor):
            return cross_entropy(output.float(), target)
        logits, gates = output
        distance = (gates.mean(0) - self.target_rate).square().mean()
        return cross_entropy(logits.float(), target) + self.rate_weight * distance


@dataclass(frozen=True)
class AIGConfig(StacksConfig):
    """Sizes of the network and its settings.

    Args:
        target_rate: t, the share of images for which a block should take part.
        rate_weight: weight of the distance to it in the loss.
        execute: the blocks that evaluation computes: "gated" for the open ones, or "all".
    """

    target_rate: float = 0.7
    rate_weight: float = 1.0
    execute: str = "gated"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.target_rate <= 1:
            raise ValueError(f"target_rate must be between 0 and 1, got {self.target_rate}")
        if self.rate_weight < 0:
            raise ValueError(f"rate_weight must not be negative, got {self.rate_weight}")
        if self.execute not in EXECUTE:
            raise ValueError(f"execute must be one of {', '.join(EXECUTE)}, got {self.execute!r}")

    def plan(self) -> ResNetConfig:
        """The ResNet without gates."""
        return ResNetConfig(
            num_classes=self.num_classes, in_channels=self.in_channels, depth=self.depth
        )

    def network(self) -> nn.Module:
        """The network."""
        return AIGResNet(self)


register_config("aig_resnet110", AIGConfig(), "ConvNet-AIG on ResNet110: blocks with gates.")
