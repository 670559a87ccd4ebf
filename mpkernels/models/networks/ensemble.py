"""Ensembles: each network is trained by itself, and their probabilities are averaged (Table 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from .config import Config
from .registry import build, register_config


class Ensemble(nn.Module):
    """Averages the probabilities of its members.

    It returns log p(x) = log(1/M sum_m softmax(logits_m(x))). Taken as logits these give the
    averaged probabilities again, and their cross-entropy is the negative log-likelihood.

    Args:
        members: networks that map [B, C, H, W] to logits [B, num_classes].

    Raises:
        ValueError: `members` is empty.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("members must hold at least one network, got none")
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Classifies images.

        Args:
            x: [B, C, H, W].

        Returns:
            log-probabilities [B, num_classes]; in training mode also the members' logits
            [M, B, num_classes], from which `loss` follows.
        """
        logits = torch.stack([member(x) for member in self.members])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        together = log_softmax(logits, -1).logsumexp(0) - math.log(len(self.members))
        return (together, logits) if self.training else together

    def loss(self, output: Tensor | tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        """The sum of the members' cross-entropies in training, so that each trains by itself.

        Args:
            output: what `forward` returned.
            target: labels [B].

        Returns:
            a scalar; in evaluation mode the cross-entropy of the averaged probabilities.
        """
        if isinstance(output, Tensor):
            return cross_entropy(output, target)
        return torch.stack([cross_entropy(logits, target) for logits in output[1]]).sum()


@dataclass(frozen=True)
class EnsembleConfig(Config):
    """An ensemble of networks by name.

    Args:
        members: the name of each member's network. The other options go to every member.
    """

    members: tuple[str, ...] = ("basecnn",) * 3

    def network(self) -> nn.Module:
        """The ensemble."""
        shared = {name: getattr(self, name) for name in ("num_classes", "in_channels", "size")}
        return Ensemble([build(name, **shared) for name in self.members])  # type: ignore[arg-type]


register_config("basecnn_ensemble", EnsembleConfig(), "Three BaseCNNs, each trained by itself.")
register_config(
    "all_ensemble",
    EnsembleConfig(members=("basecnn", "widecnn", "deepcnn")),
    "BaseCNN, WideCNN and DeepCNN, each trained by itself.",
)
