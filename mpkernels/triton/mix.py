"""mix: Y_j = sum_i g_ij X_i with gates of any strides, one per sample or one per channel.

Forward moves (m + n)|X|: programs own tiles. Backward: dX is a mix of dY; one program owns one path
of a sample, so that the gates' gradients are sums in a fixed order, and reads (m + m n)|X|.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mpkernels.ops.flags import flags_of
from mpkernels.ops.layout import Geometry
from mpkernels.triton.launch import is_long, on_device_of, tile_of
from mpkernels.triton.launch_arguments import (
    Arguments,
    finished,
    geometry_like,
    new_maps,
    reading,
    triton_dtype,
    writing,
)
from mpkernels.triton.sums import end_of, span_of, spans_of


@triton.jit
def _weight(
    gates, sample, i, o, row, col,
    batch_stride, input_stride, output_stride, channel_stride,
    BY_CHANNEL: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """g_ij of a sample: a scalar, or a row or column of one value per channel."""
    at = gates + sample * batch_stride + i * input_stride + o * output_stride
    if BY_CHANNEL:
        c = col if CHANNELS_LAST else row
        at_channel = at + c.to(tl.int64) * channel_stride
        return tl.load(at_channel, mask=c < CHANNELS, other=0.0).to(ACC)
    else:
        return tl.load(at).to(ACC)


@triton.jit
def _mix_kernel(
    xs, x_batch_strides, x_row_strides, ys, y_batch_strides, y_row_strides, gates,
    batch_stride, input_stride, output_stride, channel_stride,
    BY_CHANNEL: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One program owns one tile of one sample: each X_i element is loaded once."""
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    COL_BLOCKS: tl.constexpr = tl.cdiv(COLS, BLOCK_COLS)
    BLOCKS: tl.constexpr = tl.cdiv(ROWS, BLOCK_ROWS) * COL_BLOCKS
    program = tl.program_id(0)
    sample = (program // BLOCKS).to(tl.int64)
    row = (program % BLOCKS // COL_BLOCKS) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = (program % COL_BLOCKS) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    inside = (row < ROWS) & (col < COLS)
    tiles = ()
    for i in tl.static_range(INPUTS):
        at = sample * x_batch_strides[i] + row.to(tl.int64) * x_row_strides[i] + col
        tiles = tiles + (tl.load(xs[i] + at, mask=inside, other=0.0).to(ACC),)
    for o in tl.static_range(OUTPUTS):
        y = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
        for i in tl.static_range(INPUTS):
            y += tiles[i] * _weight(
                gates, sample, i, o, row, col,
                batch_stride, input_stride, output_stride, channel_stride,
                BY_CHANNEL, CHANNELS, CHANNELS_LAST, ACC,
            )  # fmt: skip
        at = sample * y_batch_strides[o] + row.to(tl.int64) * y_row_strides[o] + col
        tl.store(ys[o] + at, y.to(ys[o].dtype.element_ty), mask=inside)


@triton.jit
def _dots_of_channels(
    x, x_row_stride, grad_ys, grad_y_batch_strides, grad_y_row_strides,
    sample, c0, channels, positions,
    PRESENT: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    LONG: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The n sums over positions of X_i dY_j of a block of channels, of one path of one sample."""
    rows = positions if CHANNELS_LAST else channels
    cols = channels if CHANNELS_LAST else positions
    BLOCK_C: tl.constexpr = BLOCK_COLS if CHANNELS_LAST else BLOCK_ROWS
    BLOCK_S: tl.constexpr = BLOCK_ROWS if CHANNELS_LAST else BLOCK_COLS
    wholes = ()
    for _o in tl.static_range(OUTPUTS):
        wholes = wholes + (tl.zeros([BLOCK_C], ACC),)
    span = span_of(positions, BLOCK_S, LONG)
    for first in range(0, spans_of(positions, LONG), span):
        totals = ()
        for _o in tl.static_range(OUTPUTS):
            totals = totals + (tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC),)
        for s0 in range(first, end_of(first, span, positions, LONG), BLOCK_S):
            row = (s0 if CHANNELS_LAST else c0) + tl.arange(0, BLOCK_ROWS)[:, None]
            col = (c0 if CHANNELS_LAST else s0) + tl.arange(0, BLOCK_COLS)[None, :]
            inside = (row < rows) & (col < cols)
            at = row.to(tl.int64) * x_row_stride + col
            tile = tl.load(x + at, mask=inside, other=0.0).to(ACC)
            grown = ()
            for o in tl.static_range(OUTPUTS):
                if (PRESENT >> o) & 1:
                    at = row.to(tl.int64) * grad_y_row_strides[o] + col
                    dy = grad_ys[o] + sample * grad_y_batch_strides[o] + at
                    product = tile * tl.load(dy, mask=inside, other=0.0).to(ACC)
                    grown = grown + (totals[o] + product,)
                else:
                    grown = grown + (totals[o],)
            totals = grown
        added = ()
        for o in tl.static_range(OUTPUTS):
            added = added + (wholes[o] + tl.sum(totals[o], 0 if CHANNELS_LAST else 1),)
        wholes = added
    return wholes


@triton.jit
def _grad_gates_of(
    x, x_row_stride, grad_ys, grad_y_batch_strides, grad_y_row_strides, grad_gates,
    sample, channels, positions,
    PRESENT: tl.constexpr, BY_CHANNEL: tl.constexpr, OUTPUTS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, LONG: tl.constexpr, MANY: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The n gradients of one path's gates to `grad_gates`, of one sample."""
    BLOCK_C: tl.constexpr = BLOCK_COLS if CHANNELS_LAST else BLOCK_ROWS
    wholes = ()
    for _o in tl.static_range(OUTPUTS):
        wholes = wholes + (tl.cast(0.0, ACC),)
    span = span_of(channels, BLOCK_C, MANY)
    for first in range(0, spans_of(channels, MANY), span):
        totals = ()
        for _o in tl.static_range(OUTPUTS):
            totals = totals + (tl.zeros([BLOCK_C], ACC),)
        for c0 in range(first, end_of(first, span, channels, MANY), BLOCK_C):
            dots = _dots_of_channels(
                x, x_row_stride, grad_ys, grad_y_batch_strides, grad_y_row_strides,
                sample, c0, channels, positions,
                PRESENT, OUTPUTS, CHANNELS_LAST, LONG, BLOCK_ROWS, BLOCK_COLS, ACC,
            )  # fmt: skip
            grown = ()
            for o in tl.static_range(OUTPUTS):
                if BY_CHANNEL:
                    c = c0 + tl.arange(0, BLOCK_C)
                    to = grad_gates + o * channels + c
                    tl.store(to, dots[o].to(grad_gates.dtype.element_ty), mask=c < channels)
                grown = grown + (totals[o] + dots[o],)
            totals = grown
        if not BY_CHANNEL:
            added = ()
            for o in tl.static_range(OUTPUTS):
                added = added + (wholes[o] + tl.sum(totals[o], 0),)
            wholes = added
    if not BY_CHANNEL:
        for o in tl.static_range(OUTPUTS):
            tl.store(grad_gates + o, wholes[o].to(grad_gates.dtype.element_ty))


@triton.jit
def _grad_gates_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    grad_gates, channels, positions,
    PRESENT: tl.constexpr, BY_CHANNEL: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, LONG: tl.constexpr, MANY: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """d_ij = <dY_j, X_i>, or d_ijc = the sum over positions alone.

    One program owns one path of one sample: it loads each X_i element once, with every dY_j.
    """
    sample = tl.program_id(0).to(tl.int64)
    width = OUTPUTS * (channels if BY_CHANNEL else 1)
    for i in tl.static_range(INPUTS):
        if tl.program_id(1) == i:
            _grad_gates_of(
                xs[i] + sample * x_batch_strides[i], x_row_strides[i],
                grad_ys, grad_y_batch_strides, grad_y_row_strides,
                grad_gates + (sample * INPUTS + i) * width, sample, channels, positions,
                PRESENT, BY_CHANNEL, OUTPUTS, CHANNELS_LAST, LONG, MANY,
                BLOCK_ROWS, BLOCK_COLS, ACC,
            )  # fmt: skip


def _strides(gates: Tensor) -> tuple[int, int, int, int]:
    batch, inputs, outputs, *channels = gates.stride()
    return batch, inputs, outputs, channels[0] if channels else 0


def _launch_mix(
    inputs: Arguments, outputs: Arguments, gates: Tensor, geometry: Geometry, like: Tensor
) -> None:
    tile = tile_of(geometry)
    blocks = -(-geometry.rows // tile.rows) * -(-geometry.cols // tile.cols)
    if geometry.batch * blocks == 0:
        return
    with on_device_of(like):
        _mix_kernel[(geometry.batch * blocks,)](
            *inputs,
            *outputs,
            gates,
            *_strides(gates),
            BY_CHANNEL=gates.dim() == 4,
            INPUTS=gates.shape[1],
            OUTPUTS=gates.shape[2],
            CHANNELS=geometry.channels,
            POSITIONS=geometry.positions,
            CHANNELS_LAST=geometry.channels_last,
            BLOCK_ROWS=tile.rows,
            BLOCK_COLS=tile.cols,
            ACC=triton_dtype(like),
            num_warps=tile.num_warps,
        )


def _selected(gates: Tensor, inputs: list[int], outputs: list[int]) -> Tensor:
    """The gates of these paths, without an index tensor, which would come from the host."""
    if len(inputs) < gates.shape[1]:
        gates = torch.stack([gates.select(1, i) for i in inputs], 1)
    if len(outputs) < gates.shape[2]:
        gates = torch.stack([gates.select(2, j) for j in outputs], 2)
    return gates


def mix(xs: list[Tensor], gates: Tensor) -> list[Tensor]:
    """Launches once: ys."""
    x = xs[0]
    geometry, maps = geometry_like(x), new_maps([x] * gates.shape[2])
    outputs = writing(maps, geometry, x)
    _launch_mix(reading(xs, geometry, x), outputs, gates, geometry, x)
    return finished(maps, outputs)


def mix_backward(
    grads: list[Tensor | None], kept: list[Tensor], xs: list[Tensor], gates: Tensor, wanted: int
) -> list[Tensor]:
    """Launches once for dX, a mix of dY with the gates transposed, and once for dG."""
    x = xs[0]
    geometry, flags = geometry_like(x), flags_of(wanted, len(xs) + 1)
    present = [j for j, grad in enumerate(grads) if grad is not None]
    paths = [i for i, w in enumerate(flags[:-1]) if w]
    maps = new_maps([xs[i] for i in paths])
    writable = writing(maps, geometry, x)
    if paths and present:
        outer = reading([grads[j] for j in present], geometry, x)
        _launch_mix(outer, writable, _selected(gates, paths, present).transpose(1, 2), geometry, x)
    grad_xs = finished(maps, writable)
    if not flags[-1]:
        return grad_xs
    grad_gates = gates.new_empty(gates.shape)
    tile = tile_of(geometry)
    across, along = tile.counts(geometry)  # of tiles: the channels, the positions
    if geometry.channels_last:
        across, along = along, across
    if geometry.batch > 0:
        with on_device_of(x):
            _grad_gates_kernel[(geometry.batch, len(xs))](
                *reading(grads, geometry, x),
                *reading(xs, geometry, x),
                grad_gates,
                geometry.channels,
                geometry.positions,
                PRESENT=sum(1 << j for j in present),
                BY_CHANNEL=gates.dim() == 4,
                INPUTS=len(xs),
                OUTPUTS=len(grads),
                CHANNELS_LAST=geometry.channels_last,
                LONG=is_long(along),
                MANY=is_long(across) and gates.dim() == 3,
                BLOCK_ROWS=tile.rows,
                BLOCK_COLS=tile.cols,
                ACC=triton_dtype(x),
                num_warps=tile.num_warps,
            )
    return [*grad_xs, grad_gates]
