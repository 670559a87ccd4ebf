"""mix's backward: dX_i = sum_j g_ij dY_j and d_ij = <dY_j, X_i>, per sample or per channel.

Moves (2m + n)|X|: a program keeps the n tiles of dY and takes the tiles of X one after the other.
What tiles leave of d_ij is added by a second launch, where samples have several.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from mpkernels.eager.functional import accumulate_dtype
from mpkernels.ops.flags import flags_of
from mpkernels.triton.launch import (
    is_long,
    mix_backward_tile,
    mix_lanes,
    next_power_of_2,
    on_device_of,
)
from mpkernels.triton.launch_arguments import (
    finished,
    geometry_like,
    new_maps,
    reading,
    triton_dtype,
    writing,
)
from mpkernels.triton.mix_tiles import cover_of, gate_of, gate_strides, offsets, place_of
from mpkernels.triton.sums import end_of, span_of, spans_of

_SUMS = 64  # gates that one program adds the tiles of
_VALUES = 2048  # that it adds at a time: 16 for each of 128 threads


@triton.jit
def _lane_sums(
    product, SHARES: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr, AXIS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """Adds what lies in one thread: [SHARES, LANES], or [lanes, BLOCK_COLS] along AXIS 0.

    The shape repeats how threads share a tile: VECTOR neighbours each, then from the start again.
    """
    if AXIS == 0:
        TIMES: tl.constexpr = max(1, BLOCK_ROWS * BLOCK_COLS // (LANES * VECTOR))
        return tl.sum(product.reshape(TIMES, BLOCK_ROWS // TIMES, BLOCK_COLS), 0)
    else:
        SIZE: tl.constexpr = BLOCK_ROWS * BLOCK_COLS // SHARES
        EACH: tl.constexpr = min(VECTOR, SIZE)
        ACROSS: tl.constexpr = min(LANES, SIZE // EACH)
        parts = product.reshape(SHARES, SIZE // (ACROSS * EACH), ACROSS, EACH)
        return tl.sum(tl.sum(parts, 3), 1)


@triton.jit
def _sums_together(values, COUNT: tl.constexpr, SIZE: tl.constexpr, AXIS: tl.constexpr):
    """Sums along AXIS of each of COUNT tensors [A, L]: [A or L, SIZE], for a power of two SIZE.

    A thread holds what belongs to it of all of them, so that one exchange serves all.
    """
    for _ in tl.static_range(SIZE - COUNT):
        values = values + (tl.zeros_like(values[0]),)
    A: tl.constexpr = values[0].shape[0]
    L: tl.constexpr = values[0].shape[1]
    for level in tl.static_range(10):  # halves of up to 1,024
        if (SIZE >> level) > 1:
            joined = ()
            for k in tl.static_range(SIZE >> level + 1):
                joined = joined + (tl.join(values[k], values[k + (SIZE >> level + 1)]),)
            values = joined
    return tl.sum(values[0].reshape(A, L, SIZE), AXIS)


@triton.jit(do_not_specialize=["batch"])
def _mix_backward_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    grad_xs, grad_x_batch_strides, grad_x_row_strides, gates, sums, batch,
    batch_stride, input_stride, output_stride, channel_stride,
    PRESENT: tl.constexpr, WANTED: tl.constexpr, TOGETHER: tl.constexpr, LANES: tl.constexpr,
    VECTOR: tl.constexpr, BY_CHANNEL: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One program owns one tile: each dY_j and each X_i element is loaded once.

    It stores to `sums` its part of the gates' gradients: [samples, tiles, m, n], or of each channel
    [samples, tiles along the positions, m, n, C]. PRESENT and WANTED are bit masks: outputs that
    have a gradient, X_i that want one. The sums of TOGETHER paths are exchanged together.
    """
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    COL_TILES: tl.constexpr = tl.cdiv(COLS, BLOCK_COLS)
    TILES: tl.constexpr = COL_TILES * (1 if ROWS == 1 else tl.cdiv(ROWS, BLOCK_ROWS))
    GATES: tl.constexpr = INPUTS * OUTPUTS
    # Each element is its own sum to gates that differ by element: vectors, one gate per channel.
    SUMMED: tl.constexpr = not (BY_CHANNEL and POSITIONS == 1)
    AXIS: tl.constexpr = 0 if BY_CHANNEL and CHANNELS_LAST else 1
    SHARES: tl.constexpr = BLOCK_ROWS if BY_CHANNEL or ROWS == 1 else 1
    sample, row, col, inside, tile = place_of(
        tl.program_id(0), batch, ROWS, COLS, BLOCK_ROWS, BLOCK_COLS
    )
    grads = ()
    for o in tl.static_range(OUTPUTS):
        if (PRESENT >> o) & 1:
            at = offsets(
                sample, row, col, grad_y_batch_strides[o], grad_y_row_strides[o], ROWS, UNIT
            )
            grads = grads + (tl.load(grad_ys[o] + at, mask=inside, other=0.0).to(ACC),)
        else:
            grads = grads + (0.0,)
    # Where the sums of a tile go: from `to`, one value per gate, STRIDE apart.
    if AXIS == 0:
        c = tile % COL_TILES * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[:, None]
        to = (sample * (TILES // COL_TILES) + tile // COL_TILES) * (GATES * CHANNELS) + c
        known = c < CHANNELS
    elif BY_CHANNEL:
        to = (sample * COL_TILES + tile % COL_TILES) * (GATES * CHANNELS) + row
        known = row < CHANNELS
    else:
        to = (sample * TILES + tile) * GATES
        known = sample < batch
    STRIDE: tl.constexpr = CHANNELS if BY_CHANNEL else 1
    dots = ()
    for i in tl.static_range(INPUTS):
        if (WANTED >> i) & 1:
            dx = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
            for o in tl.static_range(OUTPUTS):
                if (PRESENT >> o) & 1:
                    dx += grads[o] * gate_of(
                        gates, sample, i, o, row, col, batch,
                        batch_stride, input_stride, output_stride, channel_stride,
                        BY_CHANNEL, CHANNELS, CHANNELS_LAST, ACC,
                    )  # fmt: skip
            at = offsets(
                sample, row, col, grad_x_batch_strides[i], grad_x_row_strides[i], ROWS, UNIT
            )
            tl.store(grad_xs[i] + at, dx.to(grad_xs[i].dtype.element_ty), mask=inside)
        if sums is not None:
            at = offsets(sample, row, col, x_batch_strides[i], x_row_strides[i], ROWS, UNIT)
            x = tl.load(xs[i] + at, mask=inside, other=0.0).to(ACC)
            for o in tl.static_range(OUTPUTS):
                if (PRESENT >> o) & 1:
                    product = grads[o] * x
                else:
                    product = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
                if SUMMED:
                    part = _lane_sums(product, SHARES, LANES, VECTOR, AXIS, BLOCK_ROWS, BLOCK_COLS)
                    dots = dots + (part,)
                else:
                    at = ((sample * GATES) + i * OUTPUTS + o) * CHANNELS + col
                    tl.store(sums + at, product.to(sums.dtype.element_ty), mask=inside)
            if SUMMED and ((i + 1) % TOGETHER == 0 or i + 1 == INPUTS):
                FIRST: tl.constexpr = i // TOGETHER * TOGETHER
                COUNT: tl.constexpr = (i + 1 - FIRST) * OUTPUTS
                SIZE: tl.constexpr = triton.next_power_of_2(COUNT)
                k = tl.arange(0, SIZE)[None, :]
                whole = _sums_together(dots, COUNT, SIZE, AXIS).to(sums.dtype.element_ty)
                at = to + (FIRST * OUTPUTS + k) * STRIDE
                tl.store(sums + at, whole, mask=known & (k < COUNT))
                dots = ()


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
    _mix_sums_kernel[(batch * -(-size // block),)](
        parts,
        grad_gates,
        TILES=tiles,
        SIZE=size,
        LONG=is_long(-(-tiles // block_tiles)),
        BLOCK_TILES=block_tiles,
        BLOCK=block,
        num_warps=max(1, min(block * block_tiles // 512, 4)),
    )


def mix_backward(
    grads: list[Tensor | None], kept: list[Tensor], xs: list[Tensor], gates: Tensor, wanted: int
) -> list[Tensor]:
    """Launches once, and once more where the gates' gradients are sums over several tiles."""
    x, flags = xs[0], flags_of(wanted, len(xs) + 1)
    geometry, by_channel = geometry_like(x), gates.dim() == 4
    maps = new_maps([each if want else None for each, want in zip(xs, flags)])
    outer, grad_xs = reading(grads, geometry, x), writing(maps, geometry, x)
    inputs = reading(xs if flags[-1] else [None] * len(xs), geometry, x)
    grad_gates = gates.new_empty(gates.shape) if flags[-1] else None
    cover = cover_of(geometry, by_channel, outer, inputs, grad_xs)
    tile = mix_backward_tile(cover.geometry, x.element_size(), len(xs), len(grads), by_channel)
    programs = cover.programs(tile)
    if programs == 0 and grad_gates is not None:
        grad_gates.zero_()  # without elements
    if programs > 0 and any(flags):
        down, across = tile.counts(cover.geometry)
        tiles = down * across
        if by_channel:
            tiles = down if geometry.channels_last else across
        vector = min(16 // x.element_size(), cover.unit, tile.cols)
        lanes, together = mix_lanes(
            cover.geometry, tile, vector, len(xs), len(grads), by_channel
        )
        sums = grad_gates
        if sums is not None and tiles > 1 and not (by_channel and geometry.positions == 1):
            shape = geometry.batch, tiles, *gates.shape[1:]
            sums = gates.new_empty(shape, dtype=accumulate_dtype(x.dtype))
        with on_device_of(x):
            _mix_backward_kernel[(programs,)](
                *outer,
                *inputs,
                *grad_xs,
                gates,
                sums,
                geometry.batch,
                *gate_strides(gates),
                PRESENT=sum(1 << j for j, grad in enumerate(grads) if grad is not None),
                WANTED=sum(1 << i for i, want in enumerate(flags[:-1]) if want),
                TOGETHER=together,
                LANES=lanes,
                VECTOR=vector,
                **cover.constants(gates, x, tile),
            )
            if grad_gates is not None and sums is not grad_gates:
                _add_tiles(sums, grad_gates)
    return finished(maps, grad_xs) + ([] if grad_gates is None else [grad_gates])
