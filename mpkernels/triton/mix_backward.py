"""mix's backward: dX_i = sum_j g_ij dY_j and d_ij = <dY_j, X_i>.

Moves (2m + n)|X|: a program keeps the n tiles of dY and takes the tiles of X one after the other.
What programs leave of d_ij is added by a second launch, where a sample has several. Gates of the
channels of maps are in mix_channels.py.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from mpkernels.ops.flags import flags_of
from mpkernels.triton.launch import is_long, next_power_of_2, on_device_of
from mpkernels.triton.launch_arguments import (
    Arguments,
    finished,
    geometry_like,
    new_maps,
    reading,
    writing,
)
from mpkernels.triton.launching import launched
from mpkernels.triton.mix_channels import launch_channels
from mpkernels.triton.mix_launch import mix_backward_tile
from mpkernels.triton.mix_tiles import (
    Cover,
    Wanted,
    cover_of,
    gate_of,
    gate_strides,
    place_of,
    sums_of,
    tile_in,
)
from mpkernels.triton.sums import end_of, joined, span_of, spans_of

_SUMS = 64  # gates that one program adds the tiles of
_VALUES = 2048  # that it adds at a time: 16 for each of 128 threads


@triton.jit
def _warp_sum(
    product, SHARES: tl.constexpr, THREADS: tl.constexpr, WARP: tl.constexpr, VECTOR: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """The sums [SHARES, warps] of a tile over the lanes of each warp.

    The shapes repeat how threads share a tile: VECTOR neighbours each, then from the start again.
    """
    SIZE: tl.constexpr = BLOCK_ROWS * BLOCK_COLS // SHARES
    EACH: tl.constexpr = min(VECTOR, SIZE)
    ACROSS: tl.constexpr = min(THREADS, SIZE // EACH)
    LANES: tl.constexpr = min(WARP, ACROSS)
    parts = product.reshape(SHARES, SIZE // (ACROSS * EACH), ACROSS, EACH)
    of_threads = tl.sum(tl.sum(parts, 3), 1)
    return tl.sum(of_threads.reshape(SHARES, ACROSS // LANES, LANES), 2)


@triton.jit(do_not_specialize=["batch"])
def _mix_backward_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    grad_xs, grad_x_batch_strides, grad_x_row_strides, gates, sums, batch,
    batch_stride, input_stride, output_stride, channel_stride,
    PRESENT: tl.constexpr, WANTED: tl.constexpr, THREADS: tl.constexpr, WARP: tl.constexpr,
    VECTOR: tl.constexpr, BY_CHANNEL: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr, DENSE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """One program owns one tile: each dY_j and each X_i element is loaded once.

    It stores to `sums` its part of the gates' gradients, [samples, tiles, m, n]; BY_CHANNEL, which
    is for vectors, all of them, [samples, m, n, C]. PRESENT and WANTED are bit masks: outputs that
    have a gradient, X_i that want one.
    """
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    TILES: tl.constexpr = tl.cdiv(COLS, BLOCK_COLS) * tl.cdiv(ROWS, BLOCK_ROWS)
    GATES: tl.constexpr = INPUTS * OUTPUTS
    SHARES: tl.constexpr = BLOCK_ROWS if ROWS == 1 else 1  # samples of a tile
    sample, row, col, inside, tile = place_of(
        tl.program_id(0), batch, ROWS, COLS, BLOCK_ROWS, BLOCK_COLS
    )
    grads = ()
    for o in tl.static_range(OUTPUTS):
        if (PRESENT >> o) & 1:
            dy = tile_in(
                grad_ys, grad_y_batch_strides, grad_y_row_strides, o, sample, row, col,
                ROWS, COLS, UNIT, DENSE,
            )  # fmt: skip
            grads = grads + (tl.load(dy, mask=inside, other=0.0).to(ACC),)
        else:
            grads = grads + (tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC),)
    dots = ()
    ahead = grads[0]
    for step in tl.static_range(INPUTS + 1):
        # The next X_i is asked for before a store, which the compiler lets no load pass.
        x = ahead
        if step < INPUTS and sums is not None:
            next_x = tile_in(
                xs, x_batch_strides, x_row_strides, step, sample, row, col,
                ROWS, COLS, UNIT, DENSE,
            )  # fmt: skip
            ahead = tl.load(next_x, mask=inside, other=0.0).to(ACC)
        if step > 0 and (WANTED >> (step - 1)) & 1:
            dx = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
            for o in tl.static_range(OUTPUTS):
                if (PRESENT >> o) & 1:
                    dx += grads[o] * gate_of(
                        gates, sample, step - 1, o, row, col, batch,
                        batch_stride, input_stride, output_stride, channel_stride,
                        BY_CHANNEL, CHANNELS, CHANNELS_LAST, ACC,
                    )  # fmt: skip
            to = tile_in(
                grad_xs, grad_x_batch_strides, grad_x_row_strides, step - 1, sample, row, col,
                ROWS, COLS, UNIT, DENSE,
            )  # fmt: skip
            tl.store(to, dx.to(grad_xs[step - 1].dtype.element_ty), mask=inside)
        if step > 0 and sums is not None:
            for o in tl.static_range(OUTPUTS):
                product = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
                if (PRESENT >> o) & 1:
                    product = grads[o] * x
                if BY_CHANNEL:
                    at = (sample * GATES + (step - 1) * OUTPUTS + o) * CHANNELS + col
                    tl.store(sums + at, product.to(sums.dtype.element_ty), mask=inside)
                else:
                    part = _warp_sum(product, SHARES, THREADS, WARP, VECTOR, BLOCK_ROWS, BLOCK_COLS)
                    dots = dots + (part,)
    if sums is not None and not BY_CHANNEL:
        # All in one exchange between warps; there is a power of two of them, the last ones 0.
        wholes = tl.sum(joined(dots), 1)
        k = tl.arange(0, wholes.shape[1])[None, :]
        at = (sample * TILES + tile) * GATES + k
        own = (sample < batch) & (k < GATES)
        tl.store(sums + at, wholes.to(sums.dtype.element_ty), mask=own)


@triton.jit
def _mix_sums_kernel(
    parts, sums, TILES: tl.constexpr, SIZE: tl.constexpr, LONG: tl.constexpr,
    BLOCK_TILES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds what the TILES tiles of a sample left for SIZE values, of which a program owns a block.

    The order follows from the sizes of one sample.
    """
    ACC: tl.constexpr = parts.dtype.element_ty
    BLOCKS: tl.constexpr = tl.cdiv(SIZE, BLOCK)
    sample = (tl.program_id(0) // BLOCKS).to(tl.int64)
    at = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)[None, :]
    t = tl.arange(0, BLOCK_TILES)[:, None]
    whole = tl.zeros([1, BLOCK], ACC)
    span = span_of(TILES, BLOCK_TILES, LONG)
    for first in range(0, spans_of(TILES, LONG), span):
        total = tl.zeros([BLOCK_TILES, BLOCK], ACC)
        for t0 in range(first, end_of(first, span, TILES, LONG), BLOCK_TILES):
            place = (sample * TILES + t0 + t) * SIZE + at
            total += tl.load(parts + place, mask=(t0 + t < TILES) & (at < SIZE), other=0.0)
        whole += tl.sum(total, 0)[None, :]
    tl.store(sums + sample * SIZE + at, whole.to(sums.dtype.element_ty), mask=at < SIZE)


def _add_tiles(parts: Tensor, grad_gates: Tensor) -> None:
    """Launches once: the sums of the tiles of each sample, [B, tiles, *gates of a sample]."""
    batch, tiles, *one = parts.shape
    size = math.prod(one)
    block = min(next_power_of_2(size), _SUMS)
    block_tiles = min(next_power_of_2(tiles), _VALUES // block)
    launched(_mix_sums_kernel, (batch * -(-size // block),))(
        parts,
        grad_gates,
        TILES=tiles,
        SIZE=size,
        LONG=is_long(-(-tiles // block_tiles)),
        BLOCK_TILES=block_tiles,
        BLOCK=block,
        num_warps=max(1, min(block * block_tiles // 512, 4)),
    )


def _launch(
    maps: tuple[Arguments, Arguments, Arguments], gates: Tensor, like: Tensor, cover: Cover,
    wanted: Wanted,
) -> Tensor | None:  # fmt: skip
    """Launches once, for gates that are one per sample or per element of a vector."""
    by_channel, itemsize = gates.dim() == 4, like.element_size()
    tile = mix_backward_tile(cover.geometry, itemsize, gates.shape[2], by_channel)
    tiles = math.prod(tile.counts(cover.geometry))
    sums = sums_of(wanted, gates, like, 1 if by_channel else tiles)
    warp = 64 if torch.version.hip else 32
    launched(_mix_backward_kernel, (cover.programs(tile),))(
        *maps[0],
        *maps[1],
        *maps[2],
        gates,
        sums,
        like.shape[0],
        *gate_strides(gates),
        PRESENT=wanted.present,
        WANTED=wanted.paths,
        THREADS=warp * tile.num_warps,
        WARP=warp,
        VECTOR=min(16 // itemsize, cover.unit, tile.cols),
        BY_CHANNEL=by_channel,
        BLOCK_ROWS=tile.rows,
        BLOCK_COLS=tile.cols,
        num_warps=tile.num_warps,
        **cover.constants(gates, like),
    )
    return sums


def mix_backward(
    grads: list[Tensor | None], kept: list[Tensor], xs: list[Tensor], gates: Tensor, wanted: int
) -> list[Tensor]:
    """Launches once, and once more where the gates' gradients are sums over several tiles."""
    x, flags = xs[0], flags_of(wanted, len(xs) + 1)
    geometry, by_channel = geometry_like(x), gates.dim() == 4
    new = new_maps([each if flag else None for each, flag in zip(xs, flags)])
    grad_xs = writing(new, geometry, x)
    grad_gates = gates.new_empty(gates.shape) if flags[-1] else None
    results = [] if grad_gates is None else [grad_gates]
    if not any(flags) or geometry.batch * geometry.channels * geometry.positions == 0:
        return finished(new, grad_xs) + [grad.zero_() for grad in results]
    read = list(xs) if flags[-1] else [None] * len(xs)
    maps = reading(grads, geometry, x), reading(read, geometry, x), grad_xs
    cover = cover_of(geometry, by_channel, *maps)
    want = Wanted(
        sum(1 << j for j, grad in enumerate(grads) if grad is not None),
        sum(1 << i for i, flag in enumerate(flags[:-1]) if flag),
        grad_gates,
    )
    with on_device_of(x):
        if by_channel and geometry.positions > 1:
            sums = launch_channels(maps, gates, x, cover, want)
        else:
            sums = _launch(maps, gates, x, cover, want)
        if grad_gates is not None and sums is not None and sums is not grad_gates:
            _add_tiles(sums, grad_gates)
    return finished(new, grad_xs) + results
