"""Maps and small tensors as kernels take them; what follows from shapes alone is cached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from mpkernels.eager.functional import accumulate_dtype
from mpkernels.ops.layout import Geometry, Strides, empty_map, geometry_of, strides_in_place

# Tensors, elements from sample to sample, elements from row to row.
Arguments = tuple[tuple[Tensor, ...], tuple[int, ...], tuple[int, ...]]


@lru_cache(maxsize=4096)
def _geometry(shape: torch.Size, stride: tuple[int, ...]) -> Geometry:
    return geometry_of(torch.empty_strided(shape, stride, device="meta"))


@lru_cache(maxsize=4096)
def _strides(shape: torch.Size, stride: tuple[int, ...], geometry: Geometry) -> Strides | None:
    return strides_in_place(torch.empty_strided(shape, stride, device="meta"), geometry)


@lru_cache(maxsize=4096)
def _like(
    shape: torch.Size, stride: tuple[int, ...], channels: int | None
) -> tuple[torch.Size, tuple[int, ...]]:
    new = empty_map(torch.empty_strided(shape, stride, device="meta"), channels=channels)
    return new.shape, new.stride()


def triton_dtype(x: Tensor) -> tl.dtype:
    """Triton's name for the accumulate dtype of x."""
    return tl.float64 if accumulate_dtype(x.dtype).itemsize == 8 else tl.float32


def geometry_like(x: Tensor) -> Geometry:
    """`geometry_of`, remembered."""
    return _geometry(x.shape, x.stride())


def _arguments(
    xs: Sequence[Tensor | None], geometry: Geometry, unused: Tensor, copied: bool
) -> Arguments:
    tensors, batch, row = [], [], []
    for x in xs:
        if x is None:
            x, strides = unused, Strides(0, geometry.cols)
        else:
            in_place = _strides(x.shape, x.stride(), geometry)
            if in_place is None:
                other = empty_map(x, geometry.channels_last and x.dim() > 2)
                x = other.copy_(x) if copied else other
                in_place = _strides(x.shape, x.stride(), geometry)
                assert in_place is not None
            strides = in_place
        tensors.append(x)
        batch.append(strides.batch)
        row.append(strides.row)
    return tuple(tensors), tuple(batch), tuple(row)


def reading(xs: Sequence[Tensor | None], geometry: Geometry, unused: Tensor) -> Arguments:
    """Maps to read, each in place or as the one copy that can be read; None is never touched."""
    return _arguments(xs, geometry, unused, True)


def writing(maps: Sequence[Tensor | None], geometry: Geometry, unused: Tensor) -> Arguments:
    """New maps to write, each in place or into one of the kernel's format; see `finished`."""
    return _arguments(maps, geometry, unused, False)


def new_maps(likes: Sequence[Tensor | None], channels: int | None = None) -> list[Tensor | None]:
    """A new dense map in the format of each, by default with its channels; None stays."""
    return [
        None if x is None else x.new_empty_strided(*_like(x.shape, x.stride(), channels))
        for x in likes
    ]


def finished(maps: Sequence[Tensor | None], written: Arguments) -> list[Tensor]:
    """The new maps, filled from where the kernel wrote if that was another format's copy."""
    return [
        x if x is target else x.copy_(target)
        for x, target in zip(maps, written[0])
        if x is not None
    ]


class Rows(NamedTuple):
    """What kernels are told of the rows of all maps of a call."""

    dense: bool  # rows follow each other without gaps
    wide: bool  # offsets within a sample need 64 bits
    unit: int  # a power of two up to 16 that divides their distance and, in NCHW, their length


def rows_of(geometry: Geometry, *arguments: Arguments) -> Rows:
    """The rows of these maps."""
    return _rows(geometry, tuple(row for _, _, rows in arguments for row in rows))


@lru_cache(maxsize=4096)
def _rows(geometry: Geometry, rows: tuple[int, ...]) -> Rows:
    if geometry.rows <= 1:
        rows = (geometry.cols,)
    length = 16 if geometry.channels_last else geometry.positions
    dense = all(row == geometry.cols for row in rows)
    # A block's tile may reach up to its own padded size beyond the last row.
    longest = max(geometry.cols, *map(abs, rows))
    wide = longest * 2 * (geometry.rows + 2**12) + geometry.cols >= 2**31
    return Rows(dense, wide, math.gcd(16, length, *rows))


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """The small tensors of a gate as the kernels index them."""
    return [None if t is None else t.contiguous() for t in tensors]
