"""Random shifts and mirrors of the training images, on a whole batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def seeded(*key: int) -> torch.Generator:
    """A generator that follows from its key alone."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return torch.Generator().manual_seed(seed)


def augment(x: Tensor, shift: int, offsets: Tensor, mirrored: Tensor) -> Tensor:
    """Moves and mirrors images, each by numbers of its own.

    Args:
        x: [B, C, H, W].
        shift: offsets reach from 0 to 2 * shift.
        offsets: int64 [2, B], rows and columns; an offset of `shift` leaves an image in place, and
            what comes in from outside is 0.
        mirrored: bool [B], whether an image is mirrored from left to right.

    Returns:
        [B, C, H, W].
    """
    batch, _, height, width = x.shape
    rows = torch.arange(height, device=x.device) + offsets[0][:, None]
    cols = torch.arange(width, device=x.device).expand(batch, width)
    cols = torch.where(mirrored[:, None], cols.flip(1), cols) + offsets[1][:, None]
    padded = pad(x, (shift,) * 4).permute(0, 2, 3, 1)
    sample = torch.arange(batch, device=x.device)[:, None, None]
    return padded[sample, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2).contiguous()
