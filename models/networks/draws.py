"""Random numbers of a network that decides by chance while it trains."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Draws(nn.Module):
    """Uniform numbers that follow from a seed, the number of draws so far and the process.

    Seed and number are part of the state_dict, so a training that resumes from a checkpoint repeats
    the uninterrupted one; the seed comes from torch's generator when the network is made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.drawn = int(torch.randint(2**31, (), device="cpu")), 0

    def forward(self, *shape: int, device: torch.device) -> Tensor:
        """The next numbers, float32 in (0, 1), the same on every device."""
        # Processes that train together have different images, and so need different numbers.
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
