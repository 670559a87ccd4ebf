"""mix: Y_j = sum_i g_ij X_i with gates of any strides, one per sample or one per channel.

Moves (m + n)|X|: programs own tiles. The backward is in mix_backward.py.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from mpkernels.triton.launch import on_device_of
from mpkernels.triton.launch_arguments import (
    finished,
    geometry_like,
    new_maps,
    reading,
    writing,
)
from mpkernels.triton.launching import launched
from mpkernels.triton.mix_backward import mix_backward
from mpkernels.triton.mix_launch import EARLY_GATES, mix_tile
from mpkernels.triton.mix_tiles import cover_of, gate_of, gate_strides, place_of, tile_in

__all__ = ["mix", "mix_backward"]


@triton.jit(do_not_specialize=["batch"])
def _mix_kernel(
    xs, x_batch_strides, x_row_strides, ys, y_batch_strides, y_row_strides, gates, batch,
    batch_stride, input_stride, output_stride, channel_stride,
    BY_CHANNEL: tl.constexpr, EARLY: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr, DENSE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """One program owns one tile: each X_i element is loaded once.

    EARLY: the gates are loaded with the maps, otherwise, too many for registers, when needed.
    """
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    sample, row, col, inside, _ = place_of(
        tl.program_id(0), batch, ROWS, COLS, BLOCK_ROWS, BLOCK_COLS
    )
    tiles, weights = (), ()
    for i in tl.static_range(INPUTS):
        for o in tl.static_range(OUTPUTS):
            if EARLY:
                g = gate_of(
                    gates, sample, i, o, row, col, batch,
                    batch_stride, input_stride, output_stride, channel_stride,
                    BY_CHANNEL, CHANNELS, CHANNELS_LAST, ACC,
                )  # fmt: skip
                weights = weights + (g,)
        x = tile_in(
            xs, x_batch_strides, x_row_strides, i, sample, row, col, ROWS, COLS, UNIT, DENSE
        )
        tiles = tiles + (tl.load(x, mask=inside, other=0.0).to(ACC),)
    for o in tl.static_range(OUTPUTS):
        y = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
        for i in tl.static_range(INPUTS):
            if EARLY:
                y += tiles[i] * weights[i * OUTPUTS + o]
            else:
                y += tiles[i] * gate_of(
                    gates, sample, i, o, row, col, batch,
                    batch_stride, input_stride, output_stride, channel_stride,
                    BY_CHANNEL, CHANNELS, CHANNELS_LAST, ACC,
                )  # fmt: skip
        to = tile_in(
            ys, y_batch_strides, y_row_strides, o, sample, row, col, ROWS, COLS, UNIT, DENSE
        )
        tl.store(to, y.to(ys[o].dtype.element_ty), mask=inside)


def mix(xs: list[Tensor], gates: Tensor) -> list[Tensor]:
    """Launches once: ys."""
    x = xs[0]
    geometry, maps = geometry_like(x), new_maps([x] * gates.shape[2])
    inputs, outputs = reading(xs, geometry, x), writing(maps, geometry, x)
    by_channel = gates.dim() == 4
    cover = cover_of(geometry, by_channel, inputs, outputs)
    tile = mix_tile(cover.geometry, x.element_size(), len(xs))
    if programs := cover.programs(tile):
        with on_device_of(x):
            launched(_mix_kernel, (programs,))(
                *inputs,
                *outputs,
                gates,
                geometry.batch,
                *gate_strides(gates),
                BY_CHANNEL=by_channel,
                EARLY=not by_channel or gates.shape[1] * gates.shape[2] <= EARLY_GATES,
                BLOCK_ROWS=tile.rows,
                BLOCK_COLS=tile.cols,
                num_warps=tile.num_warps,
                **cover.constants(gates, x),
            )
    return finished(maps, outputs)
