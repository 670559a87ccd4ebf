"""Colours and textures that say nothing of an image's class: a known low-level context."""

from __future__ import annotations

import torch
from torch import Tensor

from .images import seeded

NAME = "coloured-fashion-mnist"
HUES = 12
STRIPES = ("rows", "columns", "falling", "rising")
PARTS = ("train", "test")


def contexts(part: str, count: int) -> dict[str, Tensor]:
    """The hue, from 0 to `HUES` - 1, and the texture, an index of `STRIPES`, of each image [N].

    They follow from the part and the image's number alone.
    """
    generator = seeded(PARTS.index(part))
    hue = torch.randint(HUES, (count,), generator=generator)
    return {"hue": hue, "texture": torch.randint(len(STRIPES), (count,), generator=generator)}


def coloured(gray: Tensor, hue: Tensor, texture: Tensor) -> Tensor:
    """Images of one hue each, with dark stripes; black stays black.

    Args:
        gray: uint8 [N, H, W].
        hue, texture: [N], see `contexts`.

    Returns:
        uint8 [N, 3, H, W].
    """
    turn = 6 * hue.float() / HUES  # full colours: red, yellow, green, cyan, blue, magenta
    rgb = torch.stack(
        [(turn - 3).abs() - 1, 2 - (turn - 2).abs(), 2 - (turn - 4).abs()], 1
    ).clamp(0, 1)  # fmt: skip
    rows, columns = (torch.arange(size) for size in gray.shape[1:])
    down, across = rows[:, None], columns[None, :]
    lines = [down + 0 * across, across + 0 * down, down - across, down + across]
    stripes = torch.stack([1 - 0.5 * (line % 4 < 2) for line in lines])
    shade = gray.float() * stripes[texture]
    return (rgb[:, :, None, None] * shade[:, None]).round().to(torch.uint8)
