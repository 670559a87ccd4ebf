"""cross_connect where a block owns samples that it cannot keep: it walks each of them twice.

The grid is no larger than the samples that fit L2 together, so the second read of a sample comes
from L2: memory sees (m + n)|X| forward and (m + n)|X| + m|X| backward.
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


@triton.jit(do_not_specialize=["batch"])
def streamed_kernel(
    xs, x_batch_strides, x_row_strides, ys, y_batch_strides, y_row_strides,
    gate, gates, pooled, partial, batch, channels, positions, chunks,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr, UNIT: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr, BLOCK_WALK: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
    MANY: tl.constexpr,
):  # fmt: skip
    """Y_j = sum_i g_ij X_i; a program takes every num_programs-th sample, pools it and mixes it."""
    ACC: tl.constexpr = gates.dtype.element_ty
    first = tl.program_id(0).to(tl.int64)
    for further in range(0, batch - tl.program_id(0), tl.num_programs(0)):
        sample = first + further
        for chunk in range(0, chunks):
            c0 = chunk * BLOCK_CHANNELS
            for i in tl.static_range(INPUTS):
                path = sample * INPUTS + i
                pool_stage(
                    xs[i] + sample * x_batch_strides[i], x_row_strides[i], gate, i,
                    pooled + path * channels, partial + (path * chunks + chunk) * HIDDEN,
                    c0, channels, positions, INPUTS, HIDDEN, CHANNELS_LAST, WIDE, UNIT, LONG,
                    BLOCK_CHANNELS, BLOCK_POSITIONS, BLOCK_HIDDEN,
                )  # fmt: skip
        tl.debug_barrier()  # every thread sees the parts
        weights = gates_stage(
            gate, partial, gates, sample, 0, chunks, ACC,
            INPUTS, OUTPUTS, HIDDEN, BLOCK_INPUTS, BLOCK_HIDDEN, BLOCK_CHUNKS, MANY,
        )  # fmt: skip
        for chunk in range(0, chunks):
            mix_stage(
                xs, x_batch_strides, x_row_strides, ys, y_batch_strides, y_row_strides, weights,
                sample, chunk * BLOCK_CHANNELS, channels, positions, ACC,
                INPUTS, OUTPUTS, CHANNELS_LAST, DENSE, WIDE, BLOCK_CHANNELS, BLOCK_WALK,
            )  # fmt: skip


@triton.jit(do_not_specialize=["batch"])
def streamed_backward_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    grad_xs, grad_x_batch_strides, grad_x_row_strides,
    grad_gates, gates, pooled, gate, grad_logits, grad_hidden, hidden,
    dots, partial, grad_pooled, batch, channels, positions, chunks,
    PRESENT: tl.constexpr, WANTED: tl.constexpr, PARAMETERS: tl.constexpr, OVERLAP: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr, UNIT: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_WALK: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
    MANY: tl.constexpr,
):  # fmt: skip
    """dX_i = sum_j g_ij dY_j + dZ_i / S; arguments as in `resident_backward_kernel`."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    ACC: tl.constexpr = gates.dtype.element_ty
    first = tl.program_id(0).to(tl.int64)
    for further in range(0, batch - tl.program_id(0), tl.num_programs(0)):
        sample = first + further
        for chunk in range(0, chunks):
            hidden_stage(
                pooled, gate, partial, sample, chunk, chunks, channels,
                INPUTS, HIDDEN, BLOCK_CHANNELS, BLOCK_INPUTS, BLOCK_HIDDEN,
            )  # fmt: skip
            if PRESENT != 0:
                dot_stage(
                    grad_ys, grad_y_batch_strides, grad_y_row_strides,
                    xs, x_batch_strides, x_row_strides,
                    dots + (sample * chunks + chunk) * (INPUTS * OUTPUTS),
                    sample, chunk * BLOCK_CHANNELS, channels, positions, PRESENT, ACC,
                    INPUTS, OUTPUTS, CHANNELS_LAST, DENSE, WIDE, LONG, BLOCK_CHANNELS, BLOCK_WALK,
                )  # fmt: skip
        tl.debug_barrier()  # every thread sees the parts
        weights, dh = differentiate_stage(
            grad_gates, gates, gate, dots, partial, grad_logits, grad_hidden, hidden,
            sample, 0, chunks, PARAMETERS, PRESENT,
            INPUTS, OUTPUTS, HIDDEN, BLOCK_INPUTS, BLOCK_HIDDEN, BLOCK_CHUNKS, MANY,
        )  # fmt: skip
        if WANTED != 0:
            for chunk in range(0, chunks):
                grad_pooled_stage(
                    gate, dh, grad_pooled, sample, chunk * BLOCK_CHANNELS, channels, positions,
                    WANTED, INPUTS, HIDDEN, BLOCK_CHANNELS, BLOCK_INPUTS, BLOCK_HIDDEN,
                )  # fmt: skip
            tl.debug_barrier()  # every thread sees dZ
            for chunk in range(0, chunks):
                grad_stage(
                    grad_ys, grad_y_batch_strides, grad_y_row_strides,
                    grad_xs, grad_x_batch_strides, grad_x_row_strides, weights, grad_pooled,
                    sample, chunk * BLOCK_CHANNELS, channels, positions, PRESENT, WANTED,
                    INPUTS, OUTPUTS, CHANNELS_LAST, DENSE, WIDE, UNIT, BLOCK_CHANNELS, BLOCK_WALK,
                )  # fmt: skip
