"""cross_connect where every chunk of a sample has a block of its own, in two launches.

The launches take the batch in groups of samples that fit L2 together: the second launch of a
group reads again, from L2, what its first has read. No block ever waits for another.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mpkernels.triton.gate_stages import (
    differentiate_stage,
    gates_stage,
    grad_pooled_stage,
    hidden_stage,
)
from mpkernels.triton.stages import dot_stage, grad_stage, mix_stage, pool_stage


@triton.jit(do_not_specialize=["first"])
def split_pool_kernel(
    xs, x_batch_strides, x_row_strides, gate, pooled, partial, first, channels, positions, chunks,
    INPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, UNIT: tl.constexpr, LONG: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """Z and the parts of W1_i z; one program owns one chunk of one sample."""
    sample = (first + tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    for i in tl.static_range(INPUTS):
        path = sample * INPUTS + i
        pool_stage(
            xs[i] + sample * x_batch_strides[i], x_row_strides[i], gate, i,
            pooled + path * channels, partial + (path * chunks + chunk) * HIDDEN,
            chunk * BLOCK_CHANNELS, channels, positions,
            INPUTS, HIDDEN, CHANNELS_LAST, WIDE, UNIT, LONG,
            BLOCK_CHANNELS, BLOCK_POSITIONS, BLOCK_HIDDEN,
        )  # fmt: skip


@triton.jit(do_not_specialize=["first"])
def split_mix_kernel(
    xs, x_batch_strides, x_row_strides, ys, y_batch_strides, y_row_strides,
    gate, gates, partial, first, channels, positions, chunks,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_WALK: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
    MANY: tl.constexpr,
):  # fmt: skip
    """Y_j = sum_i g_ij X_i; one program owns one chunk, the first one of a sample its gates too."""
    sample = (first + tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    weights = gates_stage(
        gate, partial, gates, sample, chunk, chunks, gates.dtype.element_ty,
        INPUTS, OUTPUTS, HIDDEN, BLOCK_INPUTS, BLOCK_HIDDEN, BLOCK_CHUNKS, MANY,
    )  # fmt: skip
    mix_stage(
        xs, x_batch_strides, x_row_strides, ys, y_batch_strides, y_row_strides, weights,
        sample, chunk * BLOCK_CHANNELS, channels, positions, gates.dtype.element_ty,
        INPUTS, OUTPUTS, CHANNELS_LAST, DENSE, WIDE, BLOCK_CHANNELS, BLOCK_WALK,
    )  # fmt: skip


@triton.jit(do_not_specialize=["first"])
def split_dot_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    pooled, gate, dots, partial, first, channels, positions, chunks,
    PRESENT: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr, LONG: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_WALK: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """Parts of <X_i, dY_j> and of W1_i z; one program owns one chunk of one sample."""
    sample = (first + tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    hidden_stage(
        pooled, gate, partial, sample, chunk, chunks, channels,
        INPUTS, HIDDEN, BLOCK_CHANNELS, BLOCK_INPUTS, BLOCK_HIDDEN,
    )  # fmt: skip
    if PRESENT != 0:
        dot_stage(
            grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
            dots + (sample * chunks + chunk) * (INPUTS * OUTPUTS),
            sample, chunk * BLOCK_CHANNELS, channels, positions, PRESENT, dots.dtype.element_ty,
            INPUTS, OUTPUTS, CHANNELS_LAST, DENSE, WIDE, LONG, BLOCK_CHANNELS, BLOCK_WALK,
        )  # fmt: skip


@triton.jit(do_not_specialize=["first"])
def split_grad_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides,
    grad_xs, grad_x_batch_strides, grad_x_row_strides,
    grad_gates, gates, gate, grad_logits, grad_hidden, hidden,
    dots, partial, grad_pooled, first, channels, positions, chunks,
    PRESENT: tl.constexpr, WANTED: tl.constexpr, PARAMETERS: tl.constexpr, OVERLAP: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_WALK: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
    MANY: tl.constexpr,
):  # fmt: skip
    """dX_i = sum_j g_ij dY_j + dZ_i / S; a program owns one chunk, the first one dA, dH, h too."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    sample = (first + tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    c0 = chunk * BLOCK_CHANNELS
    weights, dh = differentiate_stage(
        grad_gates, gates, gate, dots, partial, grad_logits, grad_hidden, hidden,
        sample, chunk, chunks, PARAMETERS, PRESENT,
        INPUTS, OUTPUTS, HIDDEN, BLOCK_INPUTS, BLOCK_HIDDEN, BLOCK_CHUNKS, MANY,
    )  # fmt: skip
    if WANTED != 0:
        grad_pooled_stage(
            gate, dh, grad_pooled, sample, c0, channels, positions,
            WANTED, INPUTS, HIDDEN, BLOCK_CHANNELS, BLOCK_INPUTS, BLOCK_HIDDEN,
        )  # fmt: skip
        tl.debug_barrier()  # every thread sees dZ
        grad_stage(
            grad_ys, grad_y_batch_strides, grad_y_row_strides,
            grad_xs, grad_x_batch_strides, grad_x_row_strides, weights, grad_pooled,
            sample, c0, channels, positions, PRESENT, WANTED,
            INPUTS, OUTPUTS, CHANNELS_LAST, DENSE, WIDE, UNIT, BLOCK_CHANNELS, BLOCK_WALK,
        )  # fmt: skip
