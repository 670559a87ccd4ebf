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
from mpkernels.triton.sums import end_of, lanes_of, span_of, spans_of, sums_of


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
    values, q, q0, c0, channels, positions,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_WALK: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """What `values` [C] has for the channels of the elements q, from q0 on, of a chunk.

    In NCHW, UNIT neighbours share a channel: they lie in one thread, which loads it once.
    """
    if CHANNELS_LAST:
        c = c0 + q % BLOCK_CHANNELS
        return tl.load(values + c, mask=c < channels, other=0.0)
    else:
        c = c0 + (q0 + UNIT * elements(0, BLOCK_WALK // UNIT, WIDE)) // positions
        each = tl.load(values + c, mask=c < channels, other=0.0)
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
def hidden_of_partials(
    partial, b1, path, chunks, INPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
    MANY: tl.constexpr,
):  # fmt: skip
    """relu(W1 z + b1) of one sample, `path` its first, from the parts [m, chunks, K]: [K, m]."""
    i, k = tl.arange(0, BLOCK_INPUTS)[None, :], tl.arange(0, BLOCK_HIDDEN)[:, None]
    parts = partial + (path + i) * chunks * HIDDEN + k
    inside = (i < INPUTS) & (k < HIDDEN)
    return activate(tl.sum(lanes_of(parts, inside, HIDDEN, chunks, BLOCK_CHUNKS, MANY), 0), b1)


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
def gates_stage(
    gate, partial, gates, sample, chunk, chunks, ACC: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
    MANY: tl.constexpr,
):  # fmt: skip
    """Gates of a sample from the parts of its hidden units: m * n scalars. Chunk 0 stores them."""
    i = tl.arange(0, BLOCK_INPUTS)
    path = sample * INPUTS
    b1 = load_b1(gate, i, ACC, INPUTS, HIDDEN, BLOCK_HIDDEN)
    w2 = load_w2(gate, i, ACC, INPUTS, OUTPUTS, HIDDEN, BLOCK_HIDDEN)
    b2 = load_b2(gate, i, ACC, INPUTS, OUTPUTS)
    h = hidden_of_partials(
        partial, b1, path, chunks, INPUTS, HIDDEN, BLOCK_INPUTS, BLOCK_HIDDEN, BLOCK_CHUNKS, MANY
    )
    g = gates_of_hidden(h, w2, b2, OUTPUTS)
    for o in tl.static_range(OUTPUTS):
        tl.store(gates + (path + i) * OUTPUTS + o, g[o], mask=(i < INPUTS) & (chunk == 0))
    weights = ()
    for q in tl.static_range(INPUTS):
        for o in tl.static_range(OUTPUTS):
            weights = weights + (of_path(g[o], i, q),)
    return weights


@triton.jit
def hidden_stage(
    pooled, gate, partial, sample, chunk, chunks, channels,
    INPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """The parts of W1 z that one chunk adds, from pooled values that the forward saved."""
    ACC: tl.constexpr = pooled.dtype.element_ty
    c0 = chunk * BLOCK_CHANNELS
    c, k = c0 + tl.arange(0, BLOCK_CHANNELS)[:, None], tl.arange(0, BLOCK_HIDDEN)[:, None]
    i = tl.arange(0, BLOCK_INPUTS)[None, :]
    w1 = load_w1(
        gate, 0, c0, channels, ACC, INPUTS, BLOCK_INPUTS, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS
    )
    path, of_paths = sample * INPUTS + i, i < INPUTS
    z = tl.load(pooled + path * channels + c, mask=of_paths & (c < channels), other=0.0)
    to = partial + (path * chunks + chunk) * HIDDEN + k
    tl.store(to, times_w1(w1, z), mask=of_paths & (k < HIDDEN))


@triton.jit
def differentiate_stage(
    grad_gates, gates, gate, dots, partial, grad_logits, grad_hidden, hidden,
    sample, chunk, chunks, PARAMETERS: tl.constexpr, PRESENT: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
    MANY: tl.constexpr,
):  # fmt: skip
    """m * n scalars g_ij and dH [K, m] of a sample. Chunk 0 stores dA, dH and h."""
    ACC: tl.constexpr = gates.dtype.element_ty
    i, k = tl.arange(0, BLOCK_INPUTS), tl.arange(0, BLOCK_HIDDEN)[:, None]
    path, of_paths = sample * INPUTS, i < INPUTS
    b1 = load_b1(gate, i, ACC, INPUTS, HIDDEN, BLOCK_HIDDEN)
    w2 = load_w2(gate, i, ACC, INPUTS, OUTPUTS, HIDDEN, BLOCK_HIDDEN)
    g = load_of_outputs(gates, path + i, of_paths, ACC, OUTPUTS)
    d = load_of_outputs(grad_gates, path + i, of_paths, ACC, OUTPUTS)
    weights = ()
    for pair in tl.static_range(INPUTS * OUTPUTS):
        weights = weights + (tl.load(gates + path * OUTPUTS + pair),)
    if PRESENT != 0:
        added = ()
        for o in tl.static_range(OUTPUTS):
            of_gates = dots + sample * chunks * (INPUTS * OUTPUTS) + i * OUTPUTS + o
            parts = lanes_of(of_gates, of_paths, INPUTS * OUTPUTS, chunks, BLOCK_CHUNKS, MANY)
            added = added + (d[o] + tl.sum(parts, 0),)
        d = added
    h = hidden_of_partials(
        partial, b1, path, chunks, INPUTS, HIDDEN, BLOCK_INPUTS, BLOCK_HIDDEN, BLOCK_CHUNKS, MANY
    )
    da, dh = differentiate_gate(g, d, h, w2, OUTPUTS)
    if PARAMETERS:
        first = of_paths & (chunk == 0)
        for o in tl.static_range(OUTPUTS):
            tl.store(grad_logits + (path + i) * OUTPUTS + o, da[o], mask=first)
        at, of_hidden = (path + i)[None, :] * HIDDEN + k, first[None, :] & (k < HIDDEN)
        tl.store(grad_hidden + at, dh, mask=of_hidden)
        tl.store(hidden + at, h, mask=of_hidden)
    return weights, dh


@triton.jit
def grad_pooled_stage(
    gate, dh, grad_pooled, sample, c0, channels, positions, WANTED: tl.constexpr,
    INPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """dZ / S of one chunk to `grad_pooled`."""
    ACC: tl.constexpr = grad_pooled.dtype.element_ty
    c, i = c0 + tl.arange(0, BLOCK_CHANNELS)[:, None], tl.arange(0, BLOCK_INPUTS)
    w1 = load_w1(
        gate, 0, c0, channels, ACC, INPUTS, BLOCK_INPUTS, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS
    )
    dz = times_w1_transposed(w1, dh) / positions
    wanted = i < 0
    for q in tl.static_range(INPUTS):
        if (WANTED >> q) & 1:
            wanted |= i == q
    to = grad_pooled + (sample * INPUTS + i)[None, :] * channels + c
    tl.store(to, dz, mask=wanted[None, :] & (c < channels))


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
                dx = of_channels(
                    grad_pooled + (sample * INPUTS + i) * channels, q, q0, c0, channels, positions,
                    BLOCK_CHANNELS, BLOCK_WALK, CHANNELS_LAST, WIDE,
                    min(UNIT, 128 // grad_xs[i].dtype.element_ty.primitive_bitwidth),
                )  # fmt: skip
                for o in tl.static_range(OUTPUTS):
                    if (PRESENT >> o) & 1:
                        dx += weights[i * OUTPUTS + o] * tiles[o]
                at = places(
                    grad_xs[i] + sample * grad_x_batch_strides[i], q, c0, positions,
                    grad_x_row_strides[i],
                    BLOCK_CHANNELS, CHANNELS_LAST, DENSE,
                )  # fmt: skip
                tl.store(at, dx.to(grad_xs[i].dtype.element_ty), mask=inside)
