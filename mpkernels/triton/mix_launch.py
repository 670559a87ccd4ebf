"""How mix covers its maps: pure functions of one sample's sizes, tested without a GPU."""

from __future__ import annotations

import math
from typing import NamedTuple

from mpkernels.ops.layout import Geometry
from mpkernels.triton.launch import Tile, next_power_of_2, width_of

# What programs leave for gates of channels, stored and loaded, as a share of the bytes of maps.
SUMS_SHARE = 0.02
# Of 255 registers: what a thread holds of sums for gates of channels, in NCHW with its part of dY.
SUM_REGISTERS = 112
# Gates of channels that the forward loads before it needs them.
EARLY_GATES = 16


def mix_tile(geometry: Geometry, itemsize: int, kept: int) -> Tile:
    """Tiles of mix: 16 values of each map for each of 128 threads; small vectors share one.

    Args:
        geometry: of a map, which is a vector if its samples have no gaps and gates are scalars.
        itemsize: bytes of an element.
        kept: tiles of maps that a block keeps at a time; more than four leave room for 8 values.
    """
    values = _mix_values(kept, itemsize)
    if geometry.rows == 1:
        return _vector_tile(geometry.cols, values, 128 * values)
    cols = width_of(geometry.cols, 64 if geometry.channels_last else 512)
    rows = min(next_power_of_2(geometry.rows), 128 * values // cols)
    return _of_warps(rows, cols, values)


def mix_backward_tile(geometry: Geometry, itemsize: int, kept: int, by_channel: bool) -> Tile:
    """As `mix_tile`, but up to 512 threads take a whole vector, whose sums are then complete."""
    values = _mix_values(kept, itemsize)
    if not by_channel and geometry.rows == 1 and geometry.cols <= 512 * values:
        return _vector_tile(geometry.cols, values, 512 * values)
    return mix_tile(geometry, itemsize, kept)


def _mix_values(kept: int, itemsize: int) -> int:
    """Values of one tile in a thread; float64 takes twice the registers."""
    values = 16 if kept <= 4 else 8
    return values // 2 if itemsize == 8 else values


def _vector_tile(cols: int, values: int, most: int) -> Tile:
    """A row of one vector; several where 128 threads take a short one with 8 values each."""
    cols = min(next_power_of_2(cols), most)
    if cols <= 128 * 8:
        values = min(values, 8)
    return _of_warps(max(1, 128 * values // cols), cols, values)


def _of_warps(rows: int, cols: int, values: int) -> Tile:
    """A tile with so many values in each thread, or fewer."""
    return Tile(rows, cols, max(1, min(rows * cols // (32 * values), 16)))


class ChannelTile(NamedTuple):
    """How a warp of mix's backward walks a span of positions of its channels.

    A tile is [groups, lines, width]; warps share the groups. NCHW: a group is a channel, and a
    line is `width` positions. channels_last: `width` channels at each of `lines` positions.
    """

    span: int  # positions of one program
    groups: int
    lines: int
    width: int
    vector: int  # neighbours that a thread adds at once: positions, so 1 in channels_last
    num_warps: int

    def channels(self, channels_last: bool) -> int:
        """Channels of one program."""
        return self.groups * self.width if channels_last else self.groups


def mix_channel_tile(
    geometry: Geometry, itemsize: int, inputs: int, outputs: int, unit: int
) -> ChannelTile:
    """The tile of mix's backward with gates of channels; a thread holds parts of all their sums.

    Spans are whole maps, or so long that what they leave is SUMS_SHARE of the maps.

    Args:
        geometry: of a map.
        itemsize: bytes of an element.
        inputs: m.
        outputs: n.
        unit: a power of two that divides the distances of rows and samples.
    """
    full, registers = 16 // itemsize, 2 if itemsize == 8 else 1  # of a value
    channels, positions = next_power_of_2(geometry.channels), next_power_of_2(geometry.positions)
    if geometry.channels_last:
        # A lane holds a sum for each gate of its channels: with many paths it takes fewer.
        vector = min(full, channels)
        while vector > 2 and vector * inputs * outputs * registers > SUM_REGISTERS:
            vector //= 2
        width = min(channels, 2 * full if vector == full else vector)  # whole sectors of 32 bytes
        groups = min(channels // width, max(2, 2 * full // width))
        lines = min(positions, 32 * vector // width)
        tile, whole = (groups, lines, width, 1, groups), 256
    else:
        # The same of its tiles of dY: with many paths it takes fewer positions.
        most = (SUM_REGISTERS - inputs * outputs * registers) // (outputs * registers)
        vector = min(full, unit, positions, max(1, next_power_of_2(most + 1) // 2))
        width = min(positions, 32 * vector)
        # A warp takes several short maps.
        each = max(1, min(256 // width, SUM_REGISTERS // (2 * inputs * outputs * registers)))
        groups = min(channels, 4 * (next_power_of_2(each + 1) // 2))
        lines, tile, whole = width, (groups, 1, width, vector, min(4, groups)), 1024
    # Stored and loaded for each gate of a channel; read and written at each position.
    of_gates = 2 * max(4, itemsize) * inputs * outputs
    span = math.ceil(of_gates / (SUMS_SHARE * (2 * inputs + outputs) * itemsize))
    spans = 1 if geometry.positions <= whole else max(1, geometry.positions // span)
    span = -(-geometry.positions // spans)
    return ChannelTile(-(-span // lines) * lines, *tile)
