"""cross_connect where a block keeps a whole sample: every map is read once and written once.

Forward moves (m + n)|X| + 4 B m (n + C) bytes, backward (m + n)|X| + m|X| and small terms. At these
sizes time goes to waiting, so a kernel asks for the parameters and all maps before it exchanges
anything between threads, computes the gates of all paths at once, and stores small results last.
Masked lanes load 0, which adds nothing to a sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mpkernels.triton.gate_mlp import (
    activate,
    differentiate_gate,
    gates_of_hidden,
    load_b1,
    load_b2,
    load_of_outputs,
    load_w1,
    load_w2,
    of_path,
    times_w1,
    times_w1_transposed,
)
from mpkernels.triton.sums import joined, sums_of


@triton.jit
def _places(
    x, sample, row, col, batch_stride, row_stride,
    COLS: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Pointers to a sample's tile [rows, columns].

    Offsets within a sample take 32 bits if they fit; maps of equal strides share them, and with
    them registers. Dense rows are COLS apart, which the compiler folds into its instructions.
    """
    if DENSE:
        row_stride = COLS
    if WIDE:
        row = row.to(tl.int64)
    return (x + sample * batch_stride) + (row[:, None] * row_stride + col[None, :])


@triton.jit
def _store_gates(
    pooled, gates, z, g, sample, i, CHANNELS: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """What a forward keeps for its backward."""
    path, of_paths = sample * INPUTS + i, i < INPUTS
    c = tl.arange(0, BLOCK_CHANNELS)[:, None]
    of_channels = (c < CHANNELS) & of_paths[None, :]
    tl.store(pooled + path[None, :] * CHANNELS + c, z, mask=of_channels)
    for o in tl.static_range(OUTPUTS):
        tl.store(gates + path * OUTPUTS + o, g[o], mask=of_paths)


@triton.jit
def resident_kernel(
    xs, x_batch_strides, x_row_strides, ys, y_batch_strides, y_row_strides, gate, gates, pooled,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """Y_j = sum_i g_ij X_i; one program keeps the m maps of its sample."""
    ACC: tl.constexpr = gates.dtype.element_ty
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    BLOCK_CHANNELS: tl.constexpr = BLOCK_COLS if CHANNELS_LAST else BLOCK_ROWS
    POSITION_AXIS: tl.constexpr = 0 if CHANNELS_LAST else 1
    # Rows longer than the 16-byte loads of a warp: sums of all maps cross warps together.
    SHARED_ROWS: tl.constexpr = BLOCK_COLS * xs[0].dtype.element_ty.primitive_bitwidth > 32 * 128
    # W2 and its bias would lie in registers that the maps of a large sample need.
    EARLY: tl.constexpr = INPUTS * BLOCK_ROWS * BLOCK_COLS < 32768
    sample = tl.program_id(0).to(tl.int64)
    row, col = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_COLS)
    i = tl.arange(0, BLOCK_INPUTS)
    inside = (row < ROWS)[:, None] & (col < COLS)[None, :]
    w1 = load_w1(
        gate, 0, 0, CHANNELS, ACC, INPUTS, BLOCK_INPUTS, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS
    )
    b1 = load_b1(gate, i, ACC, INPUTS, HIDDEN, BLOCK_HIDDEN)
    if EARLY:
        w2 = load_w2(gate, i, ACC, INPUTS, OUTPUTS, HIDDEN, BLOCK_HIDDEN)
        b2 = load_b2(gate, i, ACC, INPUTS, OUTPUTS)
    tiles = ()
    for q in tl.static_range(INPUTS):
        at = _places(
            xs[q], sample, row, col, x_batch_strides[q], x_row_strides[q], COLS, DENSE, WIDE
        )
        tiles = tiles + (tl.load(at, mask=inside, other=0.0).to(ACC),)
    tl.debug_barrier()  # the compiler sinks no load below it
    if SHARED_ROWS and not CHANNELS_LAST:
        z = tl.sum(joined(tiles), POSITION_AXIS) / POSITIONS
    else:
        means = ()
        for q in tl.static_range(INPUTS):
            means = means + (tl.sum(tiles[q], POSITION_AXIS) / POSITIONS,)
        z = joined(means)
    h = activate(times_w1(w1, z), b1, HIDDEN, BLOCK_HIDDEN)
    if not EARLY:
        w2 = load_w2(gate, i, ACC, INPUTS, OUTPUTS, HIDDEN, BLOCK_HIDDEN)
        b2 = load_b2(gate, i, ACC, INPUTS, OUTPUTS)
    g = gates_of_hidden(h, w2, b2, OUTPUTS)
    weights = ()
    for q in tl.static_range(INPUTS):
        for o in tl.static_range(OUTPUTS):
            weights = weights + (of_path(g[o], i, q),)
    if not EARLY:
        _store_gates(pooled, gates, z, g, sample, i, CHANNELS, INPUTS, OUTPUTS, BLOCK_CHANNELS)
    for o in tl.static_range(OUTPUTS):
        y = weights[o] * tiles[0]
        for q in tl.static_range(1, INPUTS):
            y += weights[q * OUTPUTS + o] * tiles[q]
        at = _places(
            ys[o], sample, row, col, y_batch_strides[o], y_row_strides[o], COLS, DENSE, WIDE
        )
        tl.store(at, y.to(ys[o].dtype.element_ty), mask=inside)
    if EARLY:
        _store_gates(pooled, gates, z, g, sample, i, CHANNELS, INPUTS, OUTPUTS, BLOCK_CHANNELS)


@triton.jit
def resident_backward_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    grad_xs, grad_x_batch_strides, grad_x_row_strides,
    grad_gates, gates, pooled, gate, grad_logits, grad_hidden, hidden,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
    PRESENT: tl.constexpr, WANTED: tl.constexpr, PARAMETERS: tl.constexpr, OVERLAP: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """dX_i = sum_j g_ij dY_j + dZ_i / S; one program keeps the n gradients of its sample.

    d_ij = <dY_j, X_i> + dL/dg_ij reads each X_i once. PRESENT and WANTED are bit masks: outputs
    that have a gradient, inputs that want one. PARAMETERS: leave dA, dH and h for their gradients.
    OVERLAP: their kernel may begin once all programs have, since it waits for their end.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    ACC: tl.constexpr = gates.dtype.element_ty
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    BLOCK_CHANNELS: tl.constexpr = BLOCK_COLS if CHANNELS_LAST else BLOCK_ROWS
    sample = tl.program_id(0).to(tl.int64)
    row, col = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_COLS)
    i, c = tl.arange(0, BLOCK_INPUTS), tl.arange(0, BLOCK_CHANNELS)
    inside = (row < ROWS)[:, None] & (col < COLS)[None, :]
    path, of_paths = sample * INPUTS + i, i < INPUTS
    w1 = load_w1(
        gate, 0, 0, CHANNELS, ACC, INPUTS, BLOCK_INPUTS, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS
    )
    b1 = load_b1(gate, i, ACC, INPUTS, HIDDEN, BLOCK_HIDDEN)
    w2 = load_w2(gate, i, ACC, INPUTS, OUTPUTS, HIDDEN, BLOCK_HIDDEN)
    of_channels = (c < CHANNELS)[:, None] & of_paths[None, :]
    z = tl.load(pooled + path[None, :] * CHANNELS + c[:, None], mask=of_channels, other=0.0)
    g = load_of_outputs(gates, path, of_paths, ACC, OUTPUTS)
    d = load_of_outputs(grad_gates, path, of_paths, ACC, OUTPUTS)
    tiles = ()
    for o in tl.static_range(OUTPUTS):
        if (PRESENT >> o) & 1:
            at = _places(
                grad_ys[o], sample, row, col,
                grad_y_batch_strides[o], grad_y_row_strides[o], COLS, DENSE, WIDE,
            )  # fmt: skip
            tiles = tiles + (tl.load(at, mask=inside, other=0.0).to(ACC),)
        else:
            tiles = tiles + (0.0,)
    products = ()
    for q in tl.static_range(INPUTS):
        if PRESENT != 0 and (PARAMETERS or ((WANTED >> q) & 1)):
            at = _places(
                xs[q], sample, row, col, x_batch_strides[q], x_row_strides[q], COLS, DENSE, WIDE
            )
            x = tl.load(at, mask=inside, other=0.0).to(ACC)
            for o in tl.static_range(OUTPUTS):
                if (PRESENT >> o) & 1:
                    product = tl.reshape(tiles[o] * x, [1, BLOCK_ROWS * BLOCK_COLS])
                    products = products + (product,)
    dots = sums_of(products, len(products))
    for q in tl.static_range(INPUTS):
        if PRESENT != 0 and (PARAMETERS or ((WANTED >> q) & 1)):
            added = ()
            for o in tl.static_range(OUTPUTS):
                if (PRESENT >> o) & 1:
                    added = added + (tl.where(i == q, d[o] + tl.sum(dots[0], 0), d[o]),)
                    dots = dots[1:]
                else:
                    added = added + (d[o],)
            d = added
    h = activate(times_w1(w1, z), b1, HIDDEN, BLOCK_HIDDEN)
    da, dh = differentiate_gate(g, d, h, w2, OUTPUTS)
    dz = times_w1_transposed(w1, dh) / POSITIONS
    for q in tl.static_range(INPUTS):
        if (WANTED >> q) & 1:
            of_channel = tl.sum(tl.where((i == q)[None, :], dz, 0.0), 1)
            dx = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
            dx += of_channel[None, :] if CHANNELS_LAST else of_channel[:, None]
            for o in tl.static_range(OUTPUTS):
                if (PRESENT >> o) & 1:
                    dx += of_path(g[o], i, q) * tiles[o]
            at = _places(
                grad_xs[q], sample, row, col,
                grad_x_batch_strides[q], grad_x_row_strides[q], COLS, DENSE, WIDE,
            )  # fmt: skip
            tl.store(at, dx.to(grad_xs[q].dtype.element_ty), mask=inside)
    if PARAMETERS:
        for o in tl.static_range(OUTPUTS):
            tl.store(grad_logits + path * OUTPUTS + o, da[o], mask=of_paths)
        k = tl.arange(0, BLOCK_HIDDEN)[:, None]
        at, of_hidden = path[None, :] * HIDDEN + k, (k < HIDDEN) & of_paths[None, :]
        tl.store(grad_hidden + at, dh, mask=of_hidden)
        tl.store(hidden + at, h, mask=of_hidden)
