"""Colours and textures that say nothing of an image's class: a known low-level context."""

from __future__ import annotations

import torch
from torch import Tensor

from .images import seeded

NAME = "coloured-fashion-mnist"
HUES = 12
PART = 4096  # images at a time, as floats take four times the memory
STRIPES = ("rows", "columns", "falling", "rising")


def contexts(part: str, count: int) -> dict[str, Tensor]:
    """The hue, from 0 to `HUES` - 1, and the texture, an index of `STRIPES`, of each image [N].

    They follow from the part, "train" or "test", and the image's number alone.
    """
    return {
        name: torch.randint(kinds, (count,), generator=seeded(part == "test", at))
        for at, (name, kinds) in enumerate((("hue", HUES), ("texture", len(STRIPES))))
    }


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
    return torch.cat([
        (colour[:, :, None, None] * (shade * stripes[kind])[:, None]).round().to(torch.uint8)
        for colour, shade, kind in zip(rgb.split(PART), gray.split(PART), texture.split(PART))
    ])  # fmt: skip
