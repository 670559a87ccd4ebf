"""How maps lie in memory: which are read in place, and what new ones look like.

csrc/tensors.h has the same rules; the operators' fake kernels and the Triton launchers use these.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Geometry(NamedTuple):
    """A map as rows of columns that lie side by side.

    NCHW: rows are channels, columns positions. channels_last: the other way round. A vector, and
    a map of one position, is a row of channels in either format.
    """

    channels_last: bool
    batch: int
    channels: int
    positions: int

    @property
    def rows(self) -> int:
        """Number of rows of one sample."""
        return self.positions if self.channels_last else self.channels

    @property
    def cols(self) -> int:
        """Number of columns of one sample."""
        return self.channels if self.channels_last else self.positions


class Strides(NamedTuple):
    """Elements from one sample to the next and from one row to the next."""

    batch: int
    row: int


def is_channels_last(x: Tensor) -> bool:
    """Whether outputs like x are channels_last.

    Strides of dimensions of size 1 say nothing, where there is another dimension.
    """
    if x.dim() <= 2 or x.shape[1] <= 1 or x.stride(1) != 1:
        return False
    inner = x.dim() - 1
    while inner > 2 and x.shape[inner] == 1:
        inner -= 1
    if x.shape[inner] == 1:
        inner = x.dim() - 1
    return x.stride(inner) >= x.shape[1]


def geometry_of(x: Tensor) -> Geometry:
    """The rows and columns of a map [B, C, *spatial]."""
    positions = math.prod(x.shape[2:])
    return Geometry(positions == 1 or is_channels_last(x), x.shape[0], x.shape[1], positions)


def strides_in_place(x: Tensor, geometry: Geometry) -> Strides | None:
    """The strides with which x can be read where it lies, or None if it must be copied."""
    row, unit = geometry.cols, None if geometry.channels_last else 1
    if geometry.positions == 0:  # without an element, strides mean nothing
        return Strides(0, 0)
    if geometry.channels_last:
        if geometry.channels > 1 and x.stride(1) != 1:
            return None
    elif geometry.channels > 1:
        row = x.stride(1)
    for size, stride in zip(reversed(x.shape[2:]), reversed(x.stride()[2:])):
        if size == 1:
            continue
        if unit is None:
            unit = row = stride
        if stride != unit:
            return None
        unit *= size
    return Strides(x.stride(0), row)


def empty_map(x: Tensor, channels_last: bool | None = None, channels: int | None = None) -> Tensor:
    """A new dense map of the dtype and device of x, by default in x's format and shape."""
    batch, all_channels, *spatial = x.shape
    channels = all_channels if channels is None else channels
    if is_channels_last(x) if channels_last is None else channels_last:
        return x.new_empty((batch, *spatial, channels)).movedim(-1, 1)
    return x.new_empty((batch, channels, *spatial))


def in_format_of(y: Tensor, x: Tensor) -> Tensor:
    """y, dense and in the format of x, copied only where it is not that already."""
    channels_last = is_channels_last(x)
    dense = y.stride() == empty_map(y, channels_last).stride()
    return y if dense else copied(y, channels_last)


def copied(y: Tensor, channels_last: bool) -> Tensor:
    """A dense copy of y in this format.

    Not by a write into a new tensor, which torch.func's transforms would not follow.
    """
    if not channels_last:
        return y.clone(memory_format=torch.contiguous_format)
    return y.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)
