"""Stages of cross_connect for samples that no block can keep: pool, gate, mix, and backward.

A sample is cut into chunks of BLOCK_CHANNELS channels. A stage works on one chunk; sums over
chunks are stored as partial sums and added by the next stage, always in the same order, so that
a sample's result is the same whether one block does all its chunks or each has a block of its own.

Elements of a chunk are walked by a flat index q, so that rows of odd length move 16 bytes at a
time too. Sizes are plain arguments: as constants they would let the compiler unroll the walk. UNIT,
a power of two, divides the positions (NCHW) and all row strides: what the compiler needs to know
for wide loads of rows such as 14 x 14, whose length 16 does not divide.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mpkernels.triton.gate_mlp import load_w1, times_w1
from mpkernels.triton.sums import end_of, span_of, spans_of, sums_of


@triton.jit
def chunk_size(
    c0, channels, positions,
    BLOCK_CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """How far q goes in the chunk that starts at channel c0."""
    if WIDE:
        positions = tl.cast(positions, tl.int64)
    if CHANNELS_LAST:
        return positions * BLOCK_CHANNELS
    else:
        return tl.minimum(channels - c0, BLOCK_CHANNELS) * positions


@triton.jit
def elements(q0, BLOCK_WALK: tl.constexpr, WIDE: tl.constexpr):
    """The q of one tile of a walk; they take 32 bits where a chunk's size and offsets fit."""
    q = tl.arange(0, BLOCK_WALK)
    if WIDE:
        q = q.to(tl.int64)
    return q0 + q


@triton.jit
def places(
    x, q, c0, positions, row_stride,
    BLOCK_CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Pointers to elements q of a chunk of the map x; offsets are as wide as q."""
    if CHANNELS_LAST:
        at = x + c0 + ((q // BLOCK_CHANNELS) * row_stride + q % BLOCK_CHANNELS)
    else:
        start = x + (tl.zeros([1], tl.int64) + c0) * row_stride
        if DENSE:  # noqa: SIM108 (a branch of the compiler; row_stride is positions)
            at = start + q
        else:
            at = start + ((q // positions) * row_stride + q % positions)
    return at


@triton.jit
def of_channels(
    values, q, q0, size, c0, channels, positions,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_WALK: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """What `values` [C] has for the channels of the elements q, from q0 on, of a chunk.

    In NCHW, UNIT neighbours share a channel: they lie in one thread, which loads it once.
    """
    if CHANNELS_LAST:
        c = c0 + q % BLOCK_CHANNELS
        return tl.load(values + c, mask=(q < size) & (c < channels), other=0.0)
    else:
        first = q0 + UNIT * elements(0, BLOCK_WALK // UNIT, WIDE)
        each = tl.load(values + c0 + first // positions, mask=first < size, other=0.0)
        for level in tl.static_range(4):
            if (UNIT >> level) > 1:
                each = tl.join(each, each)
        return tl.reshape(each, [BLOCK_WALK])


@triton.jit
def pool_stage(
    x, row_stride, gate, q, pooled, partial, c0, channels, positions,
    INPUTS: tl.constexpr, HIDDEN: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr,
    UNIT: tl.constexpr, LONG: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """Z of one chunk of path q to `pooled`, and its part of W1_q z to `partial`, K values."""
    ACC: tl.constexpr = pooled.dtype.element_ty
    c, k = c0 + tl.arange(0, BLOCK_CHANNELS), tl.arange(0, BLOCK_HIDDEN)
    w1 = load_w1(gate, q, c0, channels, ACC, INPUTS, 1, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS)
    z = tl.zeros([BLOCK_CHANNELS], ACC)
    span = span_of(positions, BLOCK_POSITIONS, LONG)
    for first in range(0, spans_of(positions, LONG), span):
        if CHANNELS_LAST:
            total = tl.zeros([BLOCK_POSITIONS, BLOCK_CHANNELS], ACC)
        else:
            total = tl.zeros([BLOCK_CHANNELS, BLOCK_POSITIONS], ACC)
        for s0 in range(first, end_of(first, span, positions, LONG), BLOCK_POSITIONS):
            s = s0 + tl.arange(0, BLOCK_POSITIONS)
            if CHANNELS_LAST:
                at = (s.to(tl.int64) if WIDE else s)[:, None] * row_stride + c[None, :]
                inside = (s < positions)[:, None] & (c < channels)[None, :]
            else:
                row = (c.to(tl.int64) if WIDE else c)[:, None]
                at = row * (row_stride // UNIT * UNIT) + s[None, :]
                inside = (c < channels)[:, None] & (s < positions // UNIT * UNIT)[None, :]
            total += tl.load(x + at, mask=inside, other=0.0).to(ACC)
        z += tl.sum(total, 0 if CHANNELS_LAST else 1)
    z /= positions
    tl.store(pooled + c, z, mask=c < channels)
    tl.store(partial + k[:, None], times_w1(w1, z[:, None]), mask=(k < HIDDEN)[:, None])


@triton.jit
def mix_stage(
    xs, x_batch_strides, x_row_strides, ys, y_batch_strides, y_row_strides, weights,
    sample, c0, channels, positions, ACC: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS_LAST: tl.constexpr, DENSE: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_WALK: tl.constexpr,
):  # fmt: skip
    """Y_j = sum_i g_ij X_i over one chunk; weights[i * n + j] is the scalar g_ij."""
    size = chunk_size(c0, channels, positions, BLOCK_CHANNELS, CHANNELS_LAST, WIDE)
    for q0 in range(0, size, BLOCK_WALK):
        q = elements(q0, BLOCK_WALK, WIDE)
        inside = q < size
        if CHANNELS_LAST:
            inside &= c0 + q % BLOCK_CHANNELS < channels
        tiles = ()
        for i in tl.static_range(INPUTS):
            at = places(
                xs[i] + sample * x_batch_strides[i], q, c0, positions, x_row_strides[i],
                BLOCK_CHANNELS, CHANNELS_LAST, DENSE,
            )  # fmt: skip
            x = tl.load(at, mask=inside, other=0.0)
            tiles = tiles + (x.to(ACC),)
        for o in tl.static_range(OUTPUTS):
            y = weights[o] * tiles[0]
            for i in tl.static_range(1, INPUTS):
                y += weights[i * OUTPUTS + o] * tiles[i]
            at = places(
                ys[o] + sample * y_batch_strides[o], q, c0, positions, y_row_strides[o],
                BLOCK_CHANNELS, CHANNELS_LAST, DENSE,
            )  # fmt: skip
            tl.store(at, y.to(ys[o].dtype.element_ty), mask=inside)


@triton.jit
def dot_stage(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    partial, sample, c0, channels, positions, PRESENT: tl.constexpr, ACC: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS_LAST: tl.constexpr, DENSE: tl.constexpr,
    WIDE: tl.constexpr, LONG: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_WALK: tl.constexpr,
):  # fmt: skip
    """<X_i, dY_j> over one chunk to `partial` [m, n]; reads each X_i and each dY_j once."""
    size = chunk_size(c0, channels, positions, BLOCK_CHANNELS, CHANNELS_LAST, WIDE)
    # Neighbours of 16 bytes lie in one thread: they are added at once, and it holds fewer sums.
    BESIDE: tl.constexpr = 128 // xs[0].dtype.element_ty.primitive_bitwidth
    wholes = ()
    for _ in tl.static_range(INPUTS * OUTPUTS):
        wholes = wholes + (tl.cast(0.0, ACC),)
    span = span_of(size, BLOCK_WALK, LONG)
    for first in range(0, spans_of(size, LONG), span):
        dots = ()
        for _ in tl.static_range(INPUTS * OUTPUTS):
            dots = dots + (tl.zeros([BLOCK_WALK // BESIDE], ACC),)
        for q0 in range(first, end_of(first, span, size, LONG), BLOCK_WALK):
            q = elements(q0, BLOCK_WALK, WIDE)
            inside = q < size
            if CHANNELS_LAST:
                inside &= c0 + q % BLOCK_CHANNELS < channels
            tiles = ()
            for o in tl.static_range(OUTPUTS):
                if (PRESENT >> o) & 1:
                    at = places(
                        grad_ys[o] + sample * grad_y_batch_strides[o], q, c0, positions,
                        grad_y_row_strides[o],
                        BLOCK_CHANNELS, CHANNELS_LAST, DENSE,
                    )  # fmt: skip
                    tiles = tiles + (tl.load(at, mask=inside, other=0.0).to(ACC),)
                else:
                    tiles = tiles + (0.0,)
            grown = ()
            for i in tl.static_range(INPUTS):
                at = places(
                    xs[i] + sample * x_batch_strides[i], q, c0, positions, x_row_strides[i],
                    BLOCK_CHANNELS, CHANNELS_LAST, DENSE,
                )  # fmt: skip
                x = tl.load(at, mask=inside, other=0.0).to(ACC)
                for o in tl.static_range(OUTPUTS):
                    if (PRESENT >> o) & 1:
                        products = tl.reshape(tiles[o] * x, [BLOCK_WALK // BESIDE, BESIDE])
                        grown = grown + (dots[i * OUTPUTS + o] + tl.sum(products, 1),)
                    else:
                        grown = grown + (dots[i * OUTPUTS + o],)
            dots = grown
        lanes, added = (), ()
        for pair in tl.static_range(INPUTS * OUTPUTS):
            lanes = lanes + (dots[pair][None, :],)
        sums = sums_of(lanes, INPUTS * OUTPUTS)
        for pair in tl.static_range(INPUTS * OUTPUTS):
            added = added + (wholes[pair] + tl.sum(sums[pair], 0),)
        wholes = added
    for pair in tl.static_range(INPUTS * OUTPUTS):
        tl.store(partial + pair, wholes[pair])


@triton.jit
def grad_stage(
    grad_ys, grad_y_batch_strides, grad_y_row_strides,
    grad_xs, grad_x_batch_strides, grad_x_row_strides, weights, grad_pooled,
    sample, c0, channels, positions, PRESENT: tl.constexpr, WANTED: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS_LAST: tl.constexpr, DENSE: tl.constexpr,
    WIDE: tl.constexpr, UNIT: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_WALK: tl.constexpr,
):  # fmt: skip
    """dX_i = sum_j g_ij dY_j + dZ_i / S over one chunk; reads each dY_j once."""
    ACC: tl.constexpr = grad_pooled.dtype.element_ty
    size = chunk_size(c0, channels, positions, BLOCK_CHANNELS, CHANNELS_LAST, WIDE)
    for q0 in range(0, size, BLOCK_WALK):
        q = elements(q0, BLOCK_WALK, WIDE)
        inside = q < size
        if CHANNELS_LAST:
            inside &= c0 + q % BLOCK_CHANNELS < channels
        grads = ()
        for i in tl.static_range(INPUTS):
            if (WANTED >> i) & 1:
                dz = of_channels(
                    grad_pooled + (sample * INPUTS + i) * channels,
                    q, q0, size, c0, channels, positions,
                    BLOCK_CHANNELS, BLOCK_WALK, CHANNELS_LAST, WIDE,
                    min(UNIT, 128 // grad_xs[i].dtype.element_ty.primitive_bitwidth),
                )  # fmt: skip
                grads = grads + (dz,)
            else:
                grads = grads + (0.0,)
        tiles = ()
        for o in tl.static_range(OUTPUTS):
            if (PRESENT >> o) & 1:
                at = places(
                    grad_ys[o] + sample * grad_y_batch_strides[o], q, c0, positions,
                    grad_y_row_strides[o],
                    BLOCK_CHANNELS, CHANNELS_LAST, DENSE,
                )  # fmt: skip
                tiles = tiles + (tl.load(at, mask=inside, other=0.0).to(ACC),)
            else:
                tiles = tiles + (0.0,)
        for i in tl.static_range(INPUTS):
            if (WANTED >> i) & 1:
                dx = tl.zeros([BLOCK_WALK], ACC) + grads[i]
                for o in tl.static_range(OUTPUTS):
                    if (PRESENT >> o) & 1:
                        dx += weights[i * OUTPUTS + o] * tiles[o]
                at = places(
                    grad_xs[i] + sample * grad_x_batch_strides[i], q, c0, positions,
                    grad_x_row_strides[i],
                    BLOCK_CHANNELS, CHANNELS_LAST, DENSE,
                )  # fmt: skip
                tl.store(at, dx.to(grad_xs[i].dtype.element_ty), mask=inside)
