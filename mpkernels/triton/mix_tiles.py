"""How programs of mix share its maps, and where they find the gates."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from mpkernels.eager.functional import accumulate_dtype
from mpkernels.ops.layout import Geometry
from mpkernels.triton.launch import Tile
from mpkernels.triton.launch_arguments import Arguments, rows_of, triton_dtype

FLAT_ELEMENTS = 2**30  # of a sample whose columns 32 bits number, with those of a tile beyond it


class Cover(NamedTuple):
    """Maps as their tiles cover them."""

    geometry: Geometry
    unit: int  # a power of two up to 16 that divides all distances of rows and samples
    dense: bool  # rows follow each other without gaps

    @property
    def vectors(self) -> bool:
        """Whether a sample is one row: the rows of a tile are then samples."""
        return self.geometry.rows == 1

    def programs(self, tile: Tile) -> int:
        """How many tiles there are."""
        rows, cols = tile.counts(self.geometry)
        batch = self.geometry.batch
        return cols * (-(-batch // tile.rows) if self.vectors else batch * rows)

    def constants(self, gates: Tensor, like: Tensor) -> dict[str, Any]:
        """The compile-time arguments that all kernels of mix take."""
        return {
            "INPUTS": gates.shape[1],
            "OUTPUTS": gates.shape[2],
            "CHANNELS": self.geometry.channels,
            "POSITIONS": self.geometry.positions,
            "CHANNELS_LAST": self.geometry.channels_last,
            "UNIT": self.unit,
            "DENSE": self.dense,
            "ACC": triton_dtype(like),
        }


def cover_of(geometry: Geometry, by_channel: bool, *maps: Arguments) -> Cover:
    """To gates that are one per sample, a sample without gaps is one row, a vector."""
    size, dense = geometry.channels * geometry.positions, rows_of(geometry, *maps).dense
    if dense and not by_channel and size < FLAT_ELEMENTS:
        geometry = Geometry(True, geometry.batch, size, 1)
    strides = [stride for _, batch, _ in maps for stride in batch]
    if geometry.rows > 1:
        strides += [stride for _, _, row in maps for stride in row]
    return Cover(geometry, math.gcd(16, *strides), dense)


class Wanted(NamedTuple):
    """Of a backward: bit masks of outputs that have a gradient and X_i that want one, and dG."""

    present: int
    paths: int
    grad_gates: Tensor | None


def sums_of(wanted: Wanted, gates: Tensor, like: Tensor, tiles: int) -> Tensor | None:
    """Where the tiles of a sample leave sums: in the gradient itself if there is one tile."""
    if wanted.grad_gates is None or tiles == 1:
        return wanted.grad_gates
    shape = like.shape[0], tiles, *gates.shape[1:]
    return gates.new_empty(shape, dtype=accumulate_dtype(like.dtype))


def gate_strides(gates: Tensor) -> tuple[int, int, int, int]:
    """Elements from sample to sample, input to input, output to output, channel to channel."""
    batch, inputs, outputs, *channels = gates.stride()
    return batch, inputs, outputs, channels[0] if channels else 0


@triton.jit
def place_of(
    program, batch,
    ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """Samples of a tile, its rows and columns, what of it is inside, and its number in a sample.

    The samples are a column for vectors, otherwise a scalar.
    """
    COL_TILES: tl.constexpr = tl.cdiv(COLS, BLOCK_COLS)
    if COLS > 2**30 or ROWS > 2**30:
        program = program.to(tl.int64)
    col = program % COL_TILES * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    line = tl.arange(0, BLOCK_ROWS)[:, None]
    if ROWS == 1:
        tile = program % COL_TILES
        sample = program // COL_TILES * BLOCK_ROWS + line
        row = tl.zeros([BLOCK_ROWS, 1], tl.int32)
        inside = (sample < batch) & (col < COLS)
    else:
        TILES: tl.constexpr = tl.cdiv(ROWS, BLOCK_ROWS) * COL_TILES
        tile = program % TILES
        sample = program // TILES
        row = tile // COL_TILES * BLOCK_ROWS + line
        inside = (row < ROWS) & (col < COLS)
    return sample.to(tl.int64), row, col, inside, tile


@triton.jit
def tile_in(
    maps, batch_strides, row_strides, index, sample, row, col,
    ROWS: tl.constexpr, COLS: tl.constexpr, UNIT: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Pointers to a tile of one of the maps.

    UNIT divides the strides, which wide accesses need to know. DENSE maps share their offsets.
    """
    at = maps[index] + sample * (batch_strides[index] // UNIT * UNIT)
    if ROWS == 1:
        at += col
    elif DENSE:
        at += row.to(tl.int64) * COLS + col
    else:
        at += row.to(tl.int64) * (row_strides[index] // UNIT * UNIT) + col
    return at


@triton.jit
def pair_at(gates, i, o, input_stride, output_stride):
    """Where the gates of path i and output o begin: strides in 32 bits may lead further."""
    return gates + tl.cast(i, tl.int64) * input_stride + tl.cast(o, tl.int64) * output_stride


@triton.jit
def gate_of(
    gates, sample, i, o, row, col, batch,
    batch_stride, input_stride, output_stride, channel_stride,
    BY_CHANNEL: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """g_ij of the samples of a tile, one value each or one per channel."""
    at = pair_at(gates + sample * batch_stride, i, o, input_stride, output_stride)
    known = sample < batch
    if BY_CHANNEL:
        c = col if CHANNELS_LAST else row
        at = at + c.to(tl.int64) * channel_stride
        known = known & (c < CHANNELS)
    return tl.load(at, mask=known, other=0.0).to(ACC)
