"""cross_connect where a sample does not fit one block: its block walks it twice.

Sizes are plain arguments: as constants they would let the compiler unroll the walk.

The second read of a sample follows the first closely and comes from L2 while the samples in
flight fit there; from memory it would be 2m + n forward, (m + n) + n + m backward.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mpkernels.triton.gate import (
    differentiate_gate,
    element,
    grad_pooled_chunk,
    hidden_of_pooled,
    pool_streamed,
    softmax_of_hidden,
)


@triton.jit
def streamed_kernel(
    xs, x_batch_strides, x_row_strides, ys, y_batch_strides, y_row_strides,
    w1, b1, w2, b2, gates, pooled, channels, positions,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Y_j = sum_i g_ij X_i; one program owns one sample: it pools it, then mixes it."""
    ACC: tl.constexpr = gates.dtype.element_ty
    rows = positions if CHANNELS_LAST else channels
    cols = channels if CHANNELS_LAST else positions
    sample = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, BLOCK_OUTPUTS)
    for i in tl.static_range(INPUTS):
        pool_streamed(
            xs[i] + sample * x_batch_strides[i], x_row_strides[i],
            pooled + (sample * INPUTS + i) * channels,
            channels, positions, CHANNELS_LAST, BLOCK_ROWS, BLOCK_COLS,
        )  # fmt: skip
    tl.debug_barrier()  # every thread sees the pooled values
    weights = ()
    for i in tl.static_range(INPUTS):
        z = pooled + (sample * INPUTS + i) * channels
        h = hidden_of_pooled(z, w1, b1, i, channels, HIDDEN, BLOCK_CHANNELS, BLOCK_HIDDEN)
        g = softmax_of_hidden(h, w2, b2, i, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS)
        tl.store(gates + (sample * INPUTS + i) * OUTPUTS + j, g, mask=j < OUTPUTS)
        for o in tl.static_range(OUTPUTS):
            weights = weights + (element(g, o, BLOCK_OUTPUTS),)
    for r0 in range(0, rows, BLOCK_ROWS):
        row = r0 + tl.arange(0, BLOCK_ROWS)[:, None]
        for c0 in range(0, cols, BLOCK_COLS):
            col = c0 + tl.arange(0, BLOCK_COLS)[None, :]
            inside = (row < rows) & (col < cols)
            tiles = ()
            for i in tl.static_range(INPUTS):
                at = sample * x_batch_strides[i] + row.to(tl.int64) * x_row_strides[i] + col
                tiles = tiles + (tl.load(xs[i] + at, mask=inside, other=0.0).to(ACC),)
            for o in tl.static_range(OUTPUTS):
                y = weights[o] * tiles[0]
                for i in tl.static_range(1, INPUTS):
                    y += weights[i * OUTPUTS + o] * tiles[i]
                at = sample * y_batch_strides[o] + row.to(tl.int64) * y_row_strides[o] + col
                tl.store(ys[o] + at, y.to(ys[o].dtype.element_ty), mask=inside)


@triton.jit
def dot_streamed(
    x, x_row_stride, y, y_row_stride, rows, cols, ACC: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """<X, Y> of one sample."""
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
    for r0 in range(0, rows, BLOCK_ROWS):
        row = r0 + tl.arange(0, BLOCK_ROWS)[:, None]
        for c0 in range(0, cols, BLOCK_COLS):
            col = c0 + tl.arange(0, BLOCK_COLS)[None, :]
            inside = (row < rows) & (col < cols)
            at_x = row.to(tl.int64) * x_row_stride + col
            at_y = row.to(tl.int64) * y_row_stride + col
            left = tl.load(x + at_x, mask=inside, other=0.0).to(ACC)
            total += left * tl.load(y + at_y, mask=inside, other=0.0).to(ACC)
    return tl.sum(tl.sum(total, 1), 0)


@triton.jit
def streamed_backward_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    grad_xs, grad_x_batch_strides, grad_x_row_strides,
    grad_gates, gates, pooled, w1, b1, w2, grad_logits, grad_hidden, hidden,
    channels, positions,
    PRESENT: tl.constexpr, WANTED: tl.constexpr, PARAMETERS: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """dX_i = sum_j g_ij dY_j + dZ_i / S; arguments as in `resident_backward_kernel`."""
    ACC: tl.constexpr = gates.dtype.element_ty
    rows = positions if CHANNELS_LAST else channels
    cols = channels if CHANNELS_LAST else positions
    BLOCK_C: tl.constexpr = BLOCK_COLS if CHANNELS_LAST else BLOCK_ROWS
    sample = tl.program_id(0).to(tl.int64)
    j, k = tl.arange(0, BLOCK_OUTPUTS), tl.arange(0, BLOCK_HIDDEN)
    for i in tl.static_range(INPUTS):
        if PARAMETERS or ((WANTED >> i) & 1):
            path = sample * INPUTS + i
            d = tl.zeros([BLOCK_OUTPUTS], ACC)
            if grad_gates is not None:
                d = tl.load(grad_gates + path * OUTPUTS + j, mask=j < OUTPUTS, other=0.0)
            for o in tl.static_range(OUTPUTS):
                if (PRESENT >> o) & 1:
                    dot = dot_streamed(
                        xs[i] + sample * x_batch_strides[i], x_row_strides[i],
                        grad_ys[o] + sample * grad_y_batch_strides[o], grad_y_row_strides[o],
                        rows, cols, ACC, BLOCK_ROWS, BLOCK_COLS,
                    )  # fmt: skip
                    d = tl.where(j == o, d + dot, d)
            g = tl.load(gates + path * OUTPUTS + j, mask=j < OUTPUTS, other=0.0)
            h = hidden_of_pooled(
                pooled + path * channels, w1, b1, i,
                channels, HIDDEN, BLOCK_CHANNELS, BLOCK_HIDDEN,
            )  # fmt: skip
            da, dh = differentiate_gate(
                g, d, h, w2, i, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS
            )
            if PARAMETERS:
                tl.store(grad_logits + path * OUTPUTS + j, da, mask=j < OUTPUTS)
                tl.store(grad_hidden + path * HIDDEN + k, dh, mask=k < HIDDEN)
                tl.store(hidden + path * HIDDEN + k, h, mask=k < HIDDEN)
            if (WANTED >> i) & 1:
                for channel_block in range(0, channels, BLOCK_C):
                    dz = grad_pooled_chunk(
                        w1, i, dh, channel_block, channels, HIDDEN, BLOCK_C, BLOCK_HIDDEN
                    )
                    for position_block in range(
                        0, positions, BLOCK_ROWS if CHANNELS_LAST else BLOCK_COLS
                    ):
                        r0 = position_block if CHANNELS_LAST else channel_block
                        c0 = channel_block if CHANNELS_LAST else position_block
                        row = r0 + tl.arange(0, BLOCK_ROWS)[:, None]
                        col = c0 + tl.arange(0, BLOCK_COLS)[None, :]
                        inside = (row < rows) & (col < cols)
                        dx = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
                        dx += (dz[None, :] if CHANNELS_LAST else dz[:, None]) / positions
                        for o in tl.static_range(OUTPUTS):
                            if (PRESENT >> o) & 1:
                                at = row.to(tl.int64) * grad_y_row_strides[o] + col
                                at += sample * grad_y_batch_strides[o]
                                dy = tl.load(grad_ys[o] + at, mask=inside, other=0.0).to(ACC)
                                dx += element(g, o, BLOCK_OUTPUTS) * dy
                        at = row.to(tl.int64) * grad_x_row_strides[i] + col
                        to = grad_xs[i] + sample * grad_x_batch_strides[i] + at
                        tl.store(to, dx.to(grad_xs[i].dtype.element_ty), mask=inside)
