"""gate: pool, MLP and softmax (paper Eq. 1 to 3), and the parts that cross_connect shares.

Forward reads m|X| once and writes 4 B m (n + C) bytes; one program owns one sample of one path.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mpkernels.ops.layout import geometry_of, readable
from mpkernels.triton.launch import next_power_of_2, on_device_of, streamed_launch, weights_block
from mpkernels.triton.parameters import parameter_gradients


@triton.jit
def hidden_of_chunk(
    w1, i, z, first,
    channels, HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """The part of W1_i z that channels [first, first + BLOCK_CHANNELS) add: [BLOCK_HIDDEN]."""
    c = first + tl.arange(0, BLOCK_CHANNELS)
    k = tl.arange(0, BLOCK_HIDDEN)
    inside = (k < HIDDEN)[:, None] & (c < channels)[None, :]
    at = (i * HIDDEN + k[:, None]) * channels + c[None, :]
    w = tl.load(w1 + at, mask=inside, other=0.0).to(z.dtype)
    return tl.sum(w * z[None, :], 1)


@triton.jit
def activate(total, b1, i, HIDDEN: tl.constexpr, BLOCK_HIDDEN: tl.constexpr):
    """relu(total + b1_i): [BLOCK_HIDDEN]."""
    k = tl.arange(0, BLOCK_HIDDEN)
    if b1 is not None:
        total += tl.load(b1 + i * HIDDEN + k, mask=k < HIDDEN, other=0.0).to(total.dtype)
    return tl.where(total < 0, 0.0, total)  # keeps NaN, which maximum would drop


@triton.jit
def load_w2(
    w2, i, like,
    HIDDEN: tl.constexpr, OUTPUTS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """W2_i: [BLOCK_OUTPUTS, BLOCK_HIDDEN]."""
    k, j = tl.arange(0, BLOCK_HIDDEN), tl.arange(0, BLOCK_OUTPUTS)
    inside = (j < OUTPUTS)[:, None] & (k < HIDDEN)[None, :]
    at = (i * OUTPUTS + j[:, None]) * HIDDEN + k[None, :]
    return tl.load(w2 + at, mask=inside, other=0.0).to(like.dtype)


@triton.jit
def softmax_of_hidden(
    h, w2, b2, i,
    HIDDEN: tl.constexpr, OUTPUTS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """softmax(W2_i h + b2_i): [BLOCK_OUTPUTS], 0 beyond OUTPUTS."""
    j = tl.arange(0, BLOCK_OUTPUTS)
    w = load_w2(w2, i, h, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS)
    logits = tl.sum(w * h[None, :], 1)
    if b2 is not None:
        logits += tl.load(b2 + i * OUTPUTS + j, mask=j < OUTPUTS, other=0.0).to(h.dtype)
    logits = tl.where(j < OUTPUTS, logits, float("-inf"))
    e = tl.exp(logits - tl.max(logits, 0))
    return e / tl.sum(e, 0)


@triton.jit
def element(vector, index, SIZE: tl.constexpr):
    """vector[index] as a scalar."""
    return tl.sum(tl.where(tl.arange(0, SIZE) == index, vector, 0.0), 0)


@triton.jit
def differentiate_gate(
    g, d, h, w2, i,
    HIDDEN: tl.constexpr, OUTPUTS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """DA = g (d - <g, d>) and dH = 1(h > 0) W2^T dA."""
    grad_logits = g * (d - tl.sum(g * d, 0))
    w = load_w2(w2, i, h, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS)
    # As in PyTorch's relu, a NaN activation lets its gradient through.
    grad_hidden = tl.where(h <= 0, 0.0, tl.sum(w * grad_logits[:, None], 0))
    return grad_logits, grad_hidden


@triton.jit
def grad_pooled_chunk(
    w1, i, grad_hidden, first,
    channels, HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """W1_i^T dH for channels [first, first + BLOCK_CHANNELS)."""
    c = first + tl.arange(0, BLOCK_CHANNELS)
    k = tl.arange(0, BLOCK_HIDDEN)
    inside = (k < HIDDEN)[:, None] & (c < channels)[None, :]
    at = (i * HIDDEN + k[:, None]) * channels + c[None, :]
    w = tl.load(w1 + at, mask=inside, other=0.0).to(grad_hidden.dtype)
    return tl.sum(w * grad_hidden[:, None], 0)


@triton.jit
def pool_streamed(
    x, row_stride, pooled,
    channels, positions, CHANNELS_LAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """Writes the mean over positions of one map that starts at x to pooled, C values."""
    ACC: tl.constexpr = pooled.dtype.element_ty
    row, col = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_COLS)
    if CHANNELS_LAST:
        for c0 in range(0, channels, BLOCK_COLS):
            total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
            c = c0 + col
            for s0 in range(0, positions, BLOCK_ROWS):
                s = s0 + row
                at = s[:, None].to(tl.int64) * row_stride + c[None, :]
                inside = (s < positions)[:, None] & (c < channels)[None, :]
                total += tl.load(x + at, mask=inside, other=0.0).to(ACC)
            tl.store(pooled + c, tl.sum(total, 0) / positions, mask=c < channels)
    else:
        for c0 in range(0, channels, BLOCK_ROWS):
            total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
            c = c0 + row
            for s0 in range(0, positions, BLOCK_COLS):
                s = s0 + col
                at = c[:, None].to(tl.int64) * row_stride + s[None, :]
                inside = (c < channels)[:, None] & (s < positions)[None, :]
                total += tl.load(x + at, mask=inside, other=0.0).to(ACC)
            tl.store(pooled + c, tl.sum(total, 1) / positions, mask=c < channels)


@triton.jit
def hidden_of_pooled(
    pooled, w1, b1, i,
    channels, HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """relu(W1_i z + b1_i) with z read from memory in chunks."""
    total = tl.zeros([BLOCK_HIDDEN], pooled.dtype.element_ty)
    for c0 in range(0, channels, BLOCK_CHANNELS):
        c = c0 + tl.arange(0, BLOCK_CHANNELS)
        z = tl.load(pooled + c, mask=c < channels, other=0.0)
        total += hidden_of_chunk(w1, i, z, c0, channels, HIDDEN, BLOCK_CHANNELS, BLOCK_HIDDEN)
    return activate(total, b1, i, HIDDEN, BLOCK_HIDDEN)


@triton.jit
def _gate_kernel(
    xs, x_batch_strides, x_row_strides, w1, b1, w2, b2, gates, pooled,
    channels, positions,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """One program owns one sample: each X_i element is loaded once."""
    sample = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, BLOCK_OUTPUTS)
    for i in tl.static_range(INPUTS):
        z = pooled + (sample * INPUTS + i) * channels
        pool_streamed(
            xs[i] + sample * x_batch_strides[i], x_row_strides[i], z,
            channels, positions, CHANNELS_LAST, BLOCK_ROWS, BLOCK_COLS,
        )  # fmt: skip
    tl.debug_barrier()  # every thread sees the pooled values
    for i in tl.static_range(INPUTS):
        z = pooled + (sample * INPUTS + i) * channels
        h = hidden_of_pooled(z, w1, b1, i, channels, HIDDEN, BLOCK_CHANNELS, BLOCK_HIDDEN)
        g = softmax_of_hidden(h, w2, b2, i, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS)
        tl.store(gates + (sample * INPUTS + i) * OUTPUTS + j, g, mask=j < OUTPUTS)


@triton.jit
def _gate_backward_kernel(
    grad_gates, gates, pooled, w1, b1, w2, grad_pooled, grad_logits, grad_hidden, hidden,
    channels, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """One program owns one sample: dG to dZ, and what the parameters' gradients need."""
    sample = tl.program_id(0).to(tl.int64)
    j, k = tl.arange(0, BLOCK_OUTPUTS), tl.arange(0, BLOCK_HIDDEN)
    for i in tl.static_range(INPUTS):
        at = sample * INPUTS + i
        h = hidden_of_pooled(
            pooled + at * channels, w1, b1, i, channels, HIDDEN, BLOCK_CHANNELS, BLOCK_HIDDEN
        )
        g = tl.load(gates + at * OUTPUTS + j, mask=j < OUTPUTS, other=0.0)
        d = tl.load(grad_gates + at * OUTPUTS + j, mask=j < OUTPUTS, other=0.0)
        da, dh = differentiate_gate(g, d, h, w2, i, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS)
        tl.store(grad_logits + at * OUTPUTS + j, da, mask=j < OUTPUTS)
        tl.store(grad_hidden + at * HIDDEN + k, dh, mask=k < HIDDEN)
        tl.store(hidden + at * HIDDEN + k, h, mask=k < HIDDEN)
        for c0 in range(0, channels, BLOCK_CHANNELS):
            c = c0 + tl.arange(0, BLOCK_CHANNELS)
            dz = grad_pooled_chunk(w1, i, dh, c0, channels, HIDDEN, BLOCK_CHANNELS, BLOCK_HIDDEN)
            tl.store(grad_pooled + at * channels + c, dz, mask=c < channels)


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """The small tensors of a gate as the kernels index them."""
    return [None if t is None else t.contiguous() for t in tensors]


def gate(
    xs: list[Tensor], w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Launches once: gates [B, m, n] and pooled [B, m, C]."""
    geometry = geometry_of(xs[0])
    launch = streamed_launch(geometry, w1.shape[1])
    maps, strides = zip(*(readable(x, geometry) for x in xs))
    dtype = torch.float64 if xs[0].dtype == torch.float64 else torch.float32
    gates = xs[0].new_empty((geometry.batch, len(xs), w2.shape[1]), dtype=dtype)
    pooled = xs[0].new_empty((geometry.batch, len(xs), geometry.channels), dtype=dtype)
    if geometry.batch == 0:
        return gates, pooled
    w1, b1, w2, b2 = contiguous(w1, b1, w2, b2)
    with on_device_of(gates):
        _gate_kernel[(geometry.batch,)](
            maps,
            tuple(s.batch for s in strides),
            tuple(s.row for s in strides),
            w1,
            b1,
            w2,
            b2,
            gates,
            pooled,
            geometry.channels,
            geometry.positions,
            INPUTS=len(xs),
            OUTPUTS=w2.shape[1],
            HIDDEN=w1.shape[1],
            CHANNELS_LAST=geometry.channels_last,
            BLOCK_ROWS=launch.block_rows,
            BLOCK_COLS=launch.block_cols,
            BLOCK_CHANNELS=launch.block_channels,
            BLOCK_HIDDEN=next_power_of_2(w1.shape[1]),
            BLOCK_OUTPUTS=next_power_of_2(w2.shape[1]),
            num_warps=launch.num_warps,
        )
    return gates, pooled


def gate_backward(
    grad_gates: Tensor,
    gates: Tensor,
    pooled: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    wanted: list[bool],
) -> tuple[Tensor, list[Tensor]]:
    """Launches once, and once more where parameters want gradients."""
    batch, inputs, channels = pooled.shape
    hidden_units, outputs = w1.shape[1], w2.shape[1]
    grad_pooled = pooled.new_empty(pooled.shape)
    per_sample = [pooled.new_empty((batch, inputs, size)) for size in (outputs, hidden_units)]
    grad_logits, grad_hidden = per_sample
    hidden = torch.empty_like(grad_hidden)
    grad_gates, gates, pooled, weight1, bias1, weight2 = contiguous(
        grad_gates, gates, pooled, w1, b1, w2
    )
    if batch > 0:
        with on_device_of(pooled):
            _gate_backward_kernel[(batch,)](
                grad_gates,
                gates,
                pooled,
                weight1,
                bias1,
                weight2,
                grad_pooled,
                grad_logits,
                grad_hidden,
                hidden,
                channels,
                INPUTS=inputs,
                OUTPUTS=outputs,
                HIDDEN=hidden_units,
                BLOCK_CHANNELS=min(next_power_of_2(channels), weights_block(hidden_units)),
                BLOCK_HIDDEN=next_power_of_2(hidden_units),
                BLOCK_OUTPUTS=next_power_of_2(outputs),
                num_warps=4,
            )
    return grad_pooled, parameter_gradients(
        grad_logits, grad_hidden, hidden, pooled, (w1, b1, w2, b2), wanted
    )
