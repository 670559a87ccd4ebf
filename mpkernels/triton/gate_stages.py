"""The gates of samples that are walked in chunks (stages.py), forward and backward.

The chunks of a sample leave parts of W1 z and of <X_i, dY_j> in memory. These stages add them, in
the order of the chunks; the block of chunk 0 stores what the sample's others would repeat.
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
from mpkernels.triton.sums import lanes_of


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
    total = tl.sum(lanes_of(parts, inside, HIDDEN, chunks, BLOCK_CHUNKS, MANY), 0)
    return activate(total, b1, HIDDEN, BLOCK_HIDDEN)


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
