"""BlockDrop: a small network looks at an image and drops blocks of a ResNet before it runs.

Follows Wu et al., "BlockDrop: Dynamic Inference Paths in Residual Networks" (2018): a policy
network, ResNet-8 for CIFAR, gives a probability s_k for each of the K blocks at once, u_k is 1
(kept) with that probability, and the reward is

    R(u) = 1 - (|u| / K)^2 if the class is right, and -penalty if not.

The gradient is that of log p(u) weighted by R(u) - R(u~) (self-critical: u~ keeps the blocks with s
above 0.5), with s bounded to s' = 0.8 s + 0.2 (1 - s) so that the policy goes on exploring.
Training has three stages, chosen by `stage`:

- "pretrain": the ResNet alone, every block kept, cross-entropy.
- "curriculum": the ResNet is frozen; the policy decides about the last block, then about the last
  two, and so on; the blocks before are kept.
- "joint": both are trained, by the policy's loss plus cross-entropy under the sampled u.

Each stage starts from the weights of the one before: `models.create("blockdrop_resnet110",
stage="joint", pretrained=...)`. Without them "joint" trains everything from the start, and learns
little while the rewards of a ResNet that knows nothing are mostly penalties.

Left out: their Adam and its schedules, and any further term that keeps the policy random. The
ResNet is this package's (convolutions with bias, 1x1 shortcuts without batch norm, which a dropped
block keeps). Assumed: a penalty of 10. In evaluation dropped blocks are not computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .config import StacksConfig
from .registry import register_config
from .resnet_cifar import ResNetConfig
from .skipping import Draws, SkippableResNet

STAGES = ("pretrain", "curriculum", "joint")
BOUND = 0.8


class Decided(NamedTuple):
    """What training needs to know about a batch; of K blocks the last `learned` are the policy's.

    Args:
        logits: [B, num_classes], of the blocks that u keeps.
        probability: s' [B, K].
        kept: u [B, K], 0 or 1.
        likely_logits, likely: the same for u~, without gradients.
        learned: number of last blocks that the policy decides about.
    """

    logits: Tensor
    probability: Tensor
    kept: Tensor
    likely_logits: Tensor
    likely: Tensor
    learned: int


def reward(logits: Tensor, kept: Tensor, target: Tensor, penalty: float) -> Tensor:
    """1 - (share of kept blocks)^2 where the class is right, -penalty elsewhere; [B]."""
    right = logits.argmax(1) == target
    return torch.where(right, 1 - kept.float().mean(1).square(), -penalty)


def policy_loss(decided: Decided, target: Tensor, penalty: float) -> Tensor:
    """-(R(u) - R(u~)) log p(u), averaged over the batch; its gradient is the policy's."""
    sampled = reward(decided.logits, decided.kept, target, penalty)
    likely = reward(decided.likely_logits, decided.likely, target, penalty)
    kept, probability = (t[:, -decided.learned :] for t in (decided.kept, decided.probability))
    logarithm = torch.where(kept > 0, probability, 1 - probability).log().sum(1)
    return -((sampled - likely).detach() * logarithm).mean()


class BlockDrop(nn.Module):
    """A ResNet and the policy that drops its blocks.

    Args:
        config: its options.
    """

    def __init__(self, config: BlockDropConfig) -> None:
        super().__init__()
        plan = ResNetConfig(
            num_classes=config.num_classes, in_channels=config.in_channels, depth=config.depth
        )
        self.backbone = SkippableResNet(plan)
        small = ResNetConfig(
            num_classes=len(self.backbone.blocks), in_channels=config.in_channels, depth=1
        )
        self.policy = small.network()
        self.draws = Draws()
        self.policy.requires_grad_(config.stage != "pretrain")
        self.backbone.requires_grad_(config.stage != "curriculum")
        self.stage, self.penalty = config.stage, config.penalty
        self.steps_per_block = config.steps_per_block

    @property
    def learned(self) -> int:
        """Number of last blocks that the policy decides about after the steps so far."""
        blocks = len(self.backbone.blocks)
        if self.stage == "curriculum":
            return min(blocks, 1 + self.draws.drawn // self.steps_per_block)
        return blocks if self.stage == "joint" else 0

    def _keep(self, decisions: Tensor, learned: int) -> Tensor:
        """Decisions [B, K], in which blocks that the policy does not decide about are kept."""
        held = decisions.shape[1] - learned
        return torch.cat([torch.ones_like(decisions[:, :held]), decisions[:, held:]], 1)

    def forward(
        self, x: Tensor, return_gates: bool = False
    ) -> Tensor | tuple[Tensor, Tensor] | Decided:
        """Classifies images [B, C, H, W].

        Returns:
            logits [B, num_classes]; with `return_gates` and not in training (logits, u [B, K]); in
            training, except in the stage "pretrain", a `Decided`, which `loss` needs.
        """
        self.backbone.train(self.training and self.stage != "curriculum")
        learned = self.learned
        if self.training and self.stage == "pretrain":
            return self.backbone(x)  # type: ignore[no-any-return]
        s = self.policy(x).float().sigmoid()
        likely = self._keep((s > 0.5).to(s.dtype), learned)
        if not self.training:
            logits = self.backbone(x, likely)
            return (logits, likely) if return_gates else logits
        probability = BOUND * s + (1 - BOUND) * (1 - s)
        uniform = self.draws(*s.shape, device=x.device)
        kept = self._keep((uniform < probability).to(s.dtype), learned)
        with torch.no_grad():
            likely_logits = self.backbone(x, likely)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stage == "joint"):
            logits = self.backbone(x, kept)
        return Decided(logits, probability, kept, likely_logits, likely, learned)

    def loss(self, output: Tensor | Decided, target: Tensor) -> Tensor:
        """Cross-entropy of logits; of a `Decided` the policy's loss, plus it in the stage "joint".

        Args:
            output: what `forward` returned.
            target: labels [B].
        """
        if isinstance(output, Tensor):
            return cross_entropy(output.float(), target)
        loss = policy_loss(output, target, self.penalty)
        if self.stage == "joint":
            loss = loss + cross_entropy(output.logits.float(), target)
        return loss


@dataclass(frozen=True)
class BlockDropConfig(StacksConfig):
    """Sizes of the network and its stage of training.

    Args:
        stage: "pretrain", "curriculum" or "joint".
        penalty: the negated reward of a wrong class.
        steps_per_block: training steps after which the curriculum adds a block; an epoch of
            CIFAR at 128 images per step has 391.
    """

    stage: str = "joint"
    penalty: float = 10.0
    steps_per_block: int = 391

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {self.stage!r}")
        if self.penalty < 0:
            raise ValueError(f"penalty must not be negative, got {self.penalty}")
        self._at_least(1, "steps_per_block")

    def network(self) -> nn.Module:
        """The network."""
        return BlockDrop(self)


register_config(
    "blockdrop_resnet110", BlockDropConfig(), "BlockDrop on ResNet110: a policy drops blocks."
)
