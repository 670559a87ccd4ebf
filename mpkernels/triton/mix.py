"""mix: Y_j = sum_i g_ij X_i with given gates of any strides, one a sample or one a channel.

Forward moves (m + n)|X|: programs own tiles. Backward: one program owns one sample, so that the
gates' gradients are sums in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mpkernels.eager.functional import accumulate_dtype
from mpkernels.ops.layout import Geometry
from mpkernels.triton.launch import on_device_of, tile_of
from mpkernels.triton.maps import Arguments, finished, geometry_like, new_maps, reading, writing


@triton.jit
def _weight(
    gates, sample, i, o, row, col,
    batch_stride, input_stride, output_stride, channel_stride,
    BY_CHANNEL: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """g_ij of a sample: a scalar, or a row or column of one value a channel."""
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
def _grad_gates_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    grad_gates, channels, positions,
    PRESENT: tl.constexpr, BY_CHANNEL: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """d_ij = <dY_j, X_i>, or d_ijc = the sum over positions alone. One program owns one sample."""
    rows = positions if CHANNELS_LAST else channels
    cols = channels if CHANNELS_LAST else positions
    BLOCK_C: tl.constexpr = BLOCK_COLS if CHANNELS_LAST else BLOCK_ROWS
    BLOCK_S: tl.constexpr = BLOCK_ROWS if CHANNELS_LAST else BLOCK_COLS
    sample = tl.program_id(0).to(tl.int64)
    for i in tl.static_range(INPUTS):
        for o in tl.static_range(OUTPUTS):
            pair = (sample * INPUTS + i) * OUTPUTS + o
            whole = tl.zeros([BLOCK_C], ACC)
            for c0 in range(0, channels, BLOCK_C):
                total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
                if (PRESENT >> o) & 1:
                    for s0 in range(0, positions, BLOCK_S):
                        row = (s0 if CHANNELS_LAST else c0) + tl.arange(0, BLOCK_ROWS)[:, None]
                        col = (c0 if CHANNELS_LAST else s0) + tl.arange(0, BLOCK_COLS)[None, :]
                        inside = (row < rows) & (col < cols)
                        at = row.to(tl.int64) * x_row_strides[i] + col
                        x = xs[i] + sample * x_batch_strides[i] + at
                        at = row.to(tl.int64) * grad_y_row_strides[o] + col
                        dy = grad_ys[o] + sample * grad_y_batch_strides[o] + at
                        left = tl.load(x, mask=inside, other=0.0).to(ACC)
                        total += left * tl.load(dy, mask=inside, other=0.0).to(ACC)
                by_channel = tl.sum(total, 0 if CHANNELS_LAST else 1)
                if BY_CHANNEL:
                    c = c0 + tl.arange(0, BLOCK_C)
                    to = grad_gates + pair * channels + c
                    tl.store(to, by_channel.to(grad_gates.dtype.element_ty), mask=c < channels)
                else:
                    whole += by_channel
            if not BY_CHANNEL:
                tl.store(grad_gates + pair, tl.sum(whole, 0).to(grad_gates.dtype.element_ty))


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


def triton_dtype(x: Tensor) -> tl.dtype:
    """Triton's name for the accumulate dtype of x."""
    return tl.float64 if accumulate_dtype(x.dtype).itemsize == 8 else tl.float32


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
    geometry, made = geometry_like(x), new_maps([x] * gates.shape[2])
    outputs = writing(made, geometry, x)
    _launch_mix(reading(xs, geometry, x), outputs, gates, geometry, x)
    return finished(made, outputs)


def mix_backward(
    grad_ys: list[Tensor | None], xs: list[Tensor], gates: Tensor, wanted: list[bool]
) -> tuple[list[Tensor], list[Tensor]]:
    """Launches once for dX, a mix of dY with the gates transposed, and once for dG."""
    x = xs[0]
    geometry = geometry_like(x)
    present = [j for j, grad in enumerate(grad_ys) if grad is not None]
    asked = [i for i, w in enumerate(wanted[:-1]) if w]
    made = new_maps([xs[i] for i in asked])
    grads = writing(made, geometry, x)
    if asked and present:
        outer = reading([grad_ys[j] for j in present], geometry, x)
        _launch_mix(outer, grads, _selected(gates, asked, present).transpose(1, 2), geometry, x)
    grad_xs = finished(made, grads)
    if not wanted[-1]:
        return grad_xs, []
    grad_gates = gates.new_empty(gates.shape)
    tile = tile_of(geometry)
    if geometry.batch > 0:
        with on_device_of(x):
            _grad_gates_kernel[(geometry.batch,)](
                *reading(grad_ys, geometry, x),
                *reading(xs, geometry, x),
                grad_gates,
                geometry.channels,
                geometry.positions,
                PRESENT=sum(1 << j for j in present),
                BY_CHANNEL=gates.dim() == 4,
                INPUTS=len(xs),
                OUTPUTS=len(grad_ys),
                CHANNELS_LAST=geometry.channels_last,
                BLOCK_ROWS=tile.rows,
                BLOCK_COLS=tile.cols,
                ACC=triton_dtype(x),
                num_warps=tile.num_warps,
            )
    return grad_xs, [grad_gates]
