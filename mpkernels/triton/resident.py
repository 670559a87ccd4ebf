"""cross_connect where a block keeps whole samples: every map is read once and written once.

Forward moves (m + n)|X| + 4 B m (n + C) bytes, backward (m + n)|X| + m|X| and small terms. One
block owns BLOCK_SAMPLES samples (one, unless they are tiny) as tiles [samples, rows, columns] of
`Geometry`; w1 is read once a block. Masked lanes load 0, which adds nothing to a sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mpkernels.triton.gate_mlp import (
    activate,
    differentiate_gate,
    element,
    gates_of_hidden,
    times_w1,
    times_w1_transposed,
)


@triton.jit
def _places(
    x, sample, row, col, batch_stride, row_stride,
    COLS: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Pointers to a tile [samples, rows, columns].

    Offsets within a sample take 32 bits if they fit; maps of equal strides share them, and with
    them registers. Dense rows are COLS apart, which the compiler folds into its instructions.
    """
    if DENSE:
        row_stride = COLS
    if WIDE:
        row = row.to(tl.int64)
    within = row[None, :, None] * row_stride + col[None, None, :]
    return (x + sample[:, None, None] * batch_stride) + within


@triton.jit
def _factor(g, o, BLOCK_OUTPUTS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr):
    """The gates g[:, o] as a factor of tiles [samples, rows, columns].

    A scalar where a block has one sample: a tensor of one element would be spread over a layout in
    which each thread holds the whole tile, and the tile be moved there through shared memory.
    """
    if BLOCK_SAMPLES == 1:
        return tl.sum(element(g, o, BLOCK_OUTPUTS), 0)
    else:
        return element(g, o, BLOCK_OUTPUTS)[:, None, None]


@triton.jit(do_not_specialize=["batch"])
def resident_kernel(
    xs, x_batch_strides, x_row_strides, ys, y_batch_strides, y_row_strides,
    gate, gates, pooled, batch,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Y_j = sum_i g_ij X_i; one program keeps the m maps of its samples."""
    ACC: tl.constexpr = gates.dtype.element_ty
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    BLOCK_CHANNELS: tl.constexpr = BLOCK_COLS if CHANNELS_LAST else BLOCK_ROWS
    POSITION_AXIS: tl.constexpr = 1 if CHANNELS_LAST else 2
    sample = tl.program_id(0).to(tl.int64) * BLOCK_SAMPLES + tl.arange(0, BLOCK_SAMPLES)
    row, col = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_COLS)
    c, j = tl.arange(0, BLOCK_CHANNELS), tl.arange(0, BLOCK_OUTPUTS)
    # A block of one sample exists only for a sample that exists.
    present = (sample < batch) | (BLOCK_SAMPLES == 1)
    inside = present[:, None, None] & (row < ROWS)[None, :, None] & (col < COLS)[None, None, :]
    tiles = ()
    for i in tl.static_range(INPUTS):
        at = _places(
            xs[i], sample, row, col, x_batch_strides[i], x_row_strides[i], COLS, DENSE, WIDE
        )
        tiles = tiles + (tl.load(at, mask=inside, other=0.0).to(ACC),)
    weights = ()
    for i in tl.static_range(INPUTS):
        z = tl.sum(tiles[i], POSITION_AXIS) / POSITIONS
        path = (sample * INPUTS + i)[:, None]
        of_channels = present[:, None] & (c < CHANNELS)[None, :]
        tl.store(pooled + path * CHANNELS + c[None, :], z, mask=of_channels)
        total = times_w1(gate, i, z, 0, CHANNELS, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS)
        h = activate(total, gate, i, HIDDEN, BLOCK_HIDDEN)
        g = gates_of_hidden(h, gate, i, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS)
        of_outputs = present[:, None] & (j < OUTPUTS)[None, :]
        tl.store(gates + path * OUTPUTS + j[None, :], g, mask=of_outputs)
        weights = weights + (g,)
    for o in tl.static_range(OUTPUTS):
        y = _factor(weights[0], o, BLOCK_OUTPUTS, BLOCK_SAMPLES) * tiles[0]
        for i in tl.static_range(1, INPUTS):
            y += _factor(weights[i], o, BLOCK_OUTPUTS, BLOCK_SAMPLES) * tiles[i]
        at = _places(
            ys[o], sample, row, col, y_batch_strides[o], y_row_strides[o], COLS, DENSE, WIDE
        )
        tl.store(at, y.to(ys[o].dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["batch"])
def resident_backward_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    grad_xs, grad_x_batch_strides, grad_x_row_strides,
    grad_gates, gates, pooled, gate, grad_logits, grad_hidden, hidden, batch,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
    PRESENT: tl.constexpr, WANTED: tl.constexpr, PARAMETERS: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """dX_i = sum_j g_ij dY_j + dZ_i / S; one program keeps the n gradients of its samples.

    d_ij = <dY_j, X_i> + dL/dg_ij reads each X_i once. PRESENT and WANTED are bit masks: outputs
    that have a gradient, inputs that want one. PARAMETERS: leave dA, dH and h for their gradients.
    """
    ACC: tl.constexpr = gates.dtype.element_ty
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    BLOCK_CHANNELS: tl.constexpr = BLOCK_COLS if CHANNELS_LAST else BLOCK_ROWS
    sample = tl.program_id(0).to(tl.int64) * BLOCK_SAMPLES + tl.arange(0, BLOCK_SAMPLES)
    row, col = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_COLS)
    c = tl.arange(0, BLOCK_CHANNELS)[None, :]
    j, k = tl.arange(0, BLOCK_OUTPUTS)[None, :], tl.arange(0, BLOCK_HIDDEN)[None, :]
    present = (sample < batch) | (BLOCK_SAMPLES == 1)
    inside = present[:, None, None] & (row < ROWS)[None, :, None] & (col < COLS)[None, None, :]
    of_outputs, of_hidden = present[:, None] & (j < OUTPUTS), present[:, None] & (k < HIDDEN)
    of_channels = present[:, None] & (c < CHANNELS)
    tiles = ()
    for o in tl.static_range(OUTPUTS):
        if (PRESENT >> o) & 1:
            at = _places(
                grad_ys[o],
                sample,
                row,
                col,
                grad_y_batch_strides[o],
                grad_y_row_strides[o],
                COLS,
                DENSE,
                WIDE,
            )
            tiles = tiles + (tl.load(at, mask=inside, other=0.0).to(ACC),)
        else:
            tiles = tiles + (0.0,)
    for i in tl.static_range(INPUTS):
        if PARAMETERS or ((WANTED >> i) & 1):
            path = (sample * INPUTS + i)[:, None]
            d = tl.zeros([BLOCK_SAMPLES, BLOCK_OUTPUTS], ACC)
            if grad_gates is not None:
                d = tl.load(grad_gates + path * OUTPUTS + j, mask=of_outputs, other=0.0)
            if PRESENT != 0:
                at = _places(
                    xs[i], sample, row, col, x_batch_strides[i], x_row_strides[i], COLS, DENSE, WIDE
                )
                x = tl.load(at, mask=inside, other=0.0).to(ACC)
                for o in tl.static_range(OUTPUTS):
                    if (PRESENT >> o) & 1:
                        if BLOCK_SAMPLES == 1:
                            # A sum of everything takes half the barriers of a sum per row.
                            dot = tl.sum(tiles[o] * x)
                        else:
                            dot = tl.sum(tl.sum(tiles[o] * x, 2), 1)[:, None]
                        d = tl.where(j == o, d + dot, d)
            g = tl.load(gates + path * OUTPUTS + j, mask=of_outputs, other=0.0)
            z = tl.load(pooled + path * CHANNELS + c, mask=of_channels, other=0.0)
            total = times_w1(gate, i, z, 0, CHANNELS, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS)
            h = activate(total, gate, i, HIDDEN, BLOCK_HIDDEN)
            da, dh = differentiate_gate(
                g, d, h, gate, i, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS
            )
            if PARAMETERS:
                tl.store(grad_logits + path * OUTPUTS + j, da, mask=of_outputs)
                tl.store(grad_hidden + path * HIDDEN + k, dh, mask=of_hidden)
                tl.store(hidden + path * HIDDEN + k, h, mask=of_hidden)
            if (WANTED >> i) & 1:
                dz = times_w1_transposed(
                    gate, i, dh, 0, CHANNELS, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS
                )
                dx = tl.zeros([BLOCK_SAMPLES, BLOCK_ROWS, BLOCK_COLS], ACC)
                dx += (dz[:, None, :] if CHANNELS_LAST else dz[:, :, None]) / POSITIONS
                for o in tl.static_range(OUTPUTS):
                    if (PRESENT >> o) & 1:
                        dx += _factor(g, o, BLOCK_OUTPUTS, BLOCK_SAMPLES) * tiles[o]
                at = _places(
                    grad_xs[i],
                    sample,
                    row,
                    col,
                    grad_x_batch_strides[i],
                    grad_x_row_strides[i],
                    COLS,
                    DENSE,
                    WIDE,
                )
                tl.store(at, dx.to(grad_xs[i].dtype.element_ty), mask=inside)
