"""cross_connect where one block holds a sample: every map is read once and written once.

Forward moves (m + n)|X| + 4 B m (n + C) bytes, backward (m + n)|X| + m|X| and small terms. Tiles
are [rows, columns] of `Geometry`; masked lanes load 0, which adds nothing to a sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mpkernels.triton.gate import (
    activate,
    differentiate_gate,
    element,
    grad_pooled_chunk,
    hidden_of_chunk,
    softmax_of_hidden,
)


@triton.jit
def resident_kernel(
    xs, x_batch_strides, x_row_strides, ys, y_batch_strides, y_row_strides,
    w1, b1, w2, b2, gates, pooled,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Y_j = sum_i g_ij X_i; one program owns one sample and keeps its m maps."""
    ACC: tl.constexpr = gates.dtype.element_ty
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    POSITION_AXIS: tl.constexpr = 0 if CHANNELS_LAST else 1
    sample = tl.program_id(0).to(tl.int64)
    row, col = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_COLS)[None, :]
    inside = (row < ROWS) & (col < COLS)
    c, j = tl.arange(0, BLOCK_CHANNELS), tl.arange(0, BLOCK_OUTPUTS)
    tiles = ()
    for i in tl.static_range(INPUTS):
        at = sample * x_batch_strides[i] + row.to(tl.int64) * x_row_strides[i] + col
        tiles = tiles + (tl.load(xs[i] + at, mask=inside, other=0.0).to(ACC),)
    weights = ()
    for i in tl.static_range(INPUTS):
        z = tl.sum(tiles[i], POSITION_AXIS) / POSITIONS
        tl.store(pooled + (sample * INPUTS + i) * CHANNELS + c, z, mask=c < CHANNELS)
        total = hidden_of_chunk(w1, i, z, 0, CHANNELS, HIDDEN, BLOCK_CHANNELS, BLOCK_HIDDEN)
        h = activate(total, b1, i, HIDDEN, BLOCK_HIDDEN)
        g = softmax_of_hidden(h, w2, b2, i, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS)
        tl.store(gates + (sample * INPUTS + i) * OUTPUTS + j, g, mask=j < OUTPUTS)
        weights = weights + (g,)
    for o in tl.static_range(OUTPUTS):
        y = element(weights[0], o, BLOCK_OUTPUTS) * tiles[0]
        for i in tl.static_range(1, INPUTS):
            y += element(weights[i], o, BLOCK_OUTPUTS) * tiles[i]
        at = sample * y_batch_strides[o] + row.to(tl.int64) * y_row_strides[o] + col
        tl.store(ys[o] + at, y.to(ys[o].dtype.element_ty), mask=inside)


@triton.jit
def resident_backward_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    grad_xs, grad_x_batch_strides, grad_x_row_strides,
    grad_gates, gates, pooled, w1, b1, w2, grad_logits, grad_hidden, hidden,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
    PRESENT: tl.constexpr, WANTED: tl.constexpr, PARAMETERS: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """dX_i = sum_j g_ij dY_j + dZ_i / S; one program owns one sample and keeps its n gradients.

    d_ij = <dY_j, X_i> + dL/dg_ij reads each X_i once. PRESENT and WANTED are bit masks: outputs
    that have a gradient, inputs that want one. PARAMETERS: leave dA, dH and h for their gradients.
    """
    ACC: tl.constexpr = gates.dtype.element_ty
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    sample = tl.program_id(0).to(tl.int64)
    row, col = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_COLS)[None, :]
    inside = (row < ROWS) & (col < COLS)
    c, j, k = tl.arange(0, BLOCK_CHANNELS), tl.arange(0, BLOCK_OUTPUTS), tl.arange(0, BLOCK_HIDDEN)
    tiles = ()
    for o in tl.static_range(OUTPUTS):
        if (PRESENT >> o) & 1:
            at = sample * grad_y_batch_strides[o] + row.to(tl.int64) * grad_y_row_strides[o] + col
            tiles = tiles + (tl.load(grad_ys[o] + at, mask=inside, other=0.0).to(ACC),)
        else:
            tiles = tiles + (0.0,)
    for i in tl.static_range(INPUTS):
        if PARAMETERS or ((WANTED >> i) & 1):
            path = sample * INPUTS + i
            d = tl.zeros([BLOCK_OUTPUTS], ACC)
            if grad_gates is not None:
                d = tl.load(grad_gates + path * OUTPUTS + j, mask=j < OUTPUTS, other=0.0)
            if PRESENT != 0:
                at = sample * x_batch_strides[i] + row.to(tl.int64) * x_row_strides[i] + col
                x = tl.load(xs[i] + at, mask=inside, other=0.0).to(ACC)
                for o in tl.static_range(OUTPUTS):
                    if (PRESENT >> o) & 1:
                        d = tl.where(j == o, d + tl.sum(tl.sum(tiles[o] * x, 1), 0), d)
            g = tl.load(gates + path * OUTPUTS + j, mask=j < OUTPUTS, other=0.0)
            z = tl.load(pooled + path * CHANNELS + c, mask=c < CHANNELS, other=0.0)
            total = hidden_of_chunk(w1, i, z, 0, CHANNELS, HIDDEN, BLOCK_CHANNELS, BLOCK_HIDDEN)
            h = activate(total, b1, i, HIDDEN, BLOCK_HIDDEN)
            da, dh = differentiate_gate(
                g, d, h, w2, i, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS
            )
            if PARAMETERS:
                tl.store(grad_logits + path * OUTPUTS + j, da, mask=j < OUTPUTS)
                tl.store(grad_hidden + path * HIDDEN + k, dh, mask=k < HIDDEN)
                tl.store(hidden + path * HIDDEN + k, h, mask=k < HIDDEN)
            if (WANTED >> i) & 1:
                dz = grad_pooled_chunk(w1, i, dh, 0, CHANNELS, HIDDEN, BLOCK_CHANNELS, BLOCK_HIDDEN)
                dx = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
                dx += (dz[None, :] if CHANNELS_LAST else dz[:, None]) / POSITIONS
                for o in tl.static_range(OUTPUTS):
                    if (PRESENT >> o) & 1:
                        dx += element(g, o, BLOCK_OUTPUTS) * tiles[o]
                at = sample * grad_x_batch_strides[i] + row.to(tl.int64) * grad_x_row_strides[i]
                to = grad_xs[i] + at + col
                tl.store(to, dx.to(grad_xs[i].dtype.element_ty), mask=inside)
