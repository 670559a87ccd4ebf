"""gate: pool, MLP and softmax (paper Eq. 1 to 3) of maps.

Forward reads m|X| once and writes 4 B m (n + C) bytes; one program owns one sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from mpkernels.ops.flags import flags_of
from mpkernels.triton.gate_mlp import (
    activate,
    as_gate,
    differentiate_gate,
    times_w1,
    times_w1_transposed,
)
from mpkernels.triton.gate_parameter_grads import parameter_gradients
from mpkernels.triton.launch import (
    WALK_WEIGHTS,
    chunk_constants,
    chunks_of,
    is_long,
    next_power_of_2,
    on_device_of,
)
from mpkernels.triton.launch_arguments import geometry_like, reading, rows_of
from mpkernels.triton.stages import gates_stage, pool_stage
from mpkernels.triton.sums import end_of, span_of, spans_of


@triton.jit
def gate_kernel(
    xs, x_batch_strides, x_row_strides, gate, gates, pooled, partial,
    channels, positions, chunks,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, UNIT: tl.constexpr, LONG: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
):  # fmt: skip
    """One program owns one sample: each X_i element is loaded once."""
    sample = tl.program_id(0).to(tl.int64)
    for chunk in range(0, chunks):
        for i in tl.static_range(INPUTS):
            path = sample * INPUTS + i
            pool_stage(
                xs[i] + sample * x_batch_strides[i], x_row_strides[i], gate, i,
                pooled + path * channels, partial + (path * chunks + chunk) * HIDDEN,
                chunk * BLOCK_CHANNELS, channels, positions,
                HIDDEN, CHANNELS_LAST, WIDE, UNIT, LONG,
                BLOCK_CHANNELS, BLOCK_POSITIONS, BLOCK_HIDDEN,
            )  # fmt: skip
    tl.debug_barrier()  # every thread sees the parts
    gates_stage(
        gate, partial, gates, sample, 0, chunks,
        INPUTS, OUTPUTS, HIDDEN, BLOCK_HIDDEN, BLOCK_OUTPUTS, BLOCK_CHUNKS,
    )  # fmt: skip


@triton.jit
def gate_backward_kernel(
    grad_gates, gates, pooled, gate, grad_pooled, grad_logits, grad_hidden, hidden,
    channels, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """One program owns one sample: dG to dZ, and what the parameters' gradients need."""
    sample = tl.program_id(0).to(tl.int64)
    j, k = tl.arange(0, BLOCK_OUTPUTS)[None, :], tl.arange(0, BLOCK_HIDDEN)[None, :]
    c = tl.arange(0, BLOCK_CHANNELS)[None, :]
    for i in tl.static_range(INPUTS):
        at = sample * INPUTS + i
        total = tl.zeros([1, BLOCK_HIDDEN], pooled.dtype.element_ty)
        span = span_of(channels, BLOCK_CHANNELS, LONG)
        for first in range(0, spans_of(channels, LONG), span):
            part = tl.zeros([1, BLOCK_HIDDEN], pooled.dtype.element_ty)
            for c0 in range(first, end_of(first, span, channels, LONG), BLOCK_CHANNELS):
                z = tl.load(pooled + at * channels + c0 + c, mask=c0 + c < channels, other=0.0)
                part += times_w1(gate, i, z, c0, channels, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS)
            total += part
        h = activate(total, gate, i, HIDDEN, BLOCK_HIDDEN)
        g = tl.load(gates + at * OUTPUTS + j, mask=j < OUTPUTS, other=0.0)
        d = tl.load(grad_gates + at * OUTPUTS + j, mask=j < OUTPUTS, other=0.0)
        da, dh = differentiate_gate(g, d, h, gate, i, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS)
        tl.store(grad_logits + at * OUTPUTS + j, da, mask=j < OUTPUTS)
        tl.store(grad_hidden + at * HIDDEN + k, dh, mask=k < HIDDEN)
        tl.store(hidden + at * HIDDEN + k, h, mask=k < HIDDEN)
        for c0 in range(0, channels, BLOCK_CHANNELS):
            dz = times_w1_transposed(
                gate, i, dh, c0, channels, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS
            )
            tl.store(grad_pooled + at * channels + c0 + c, dz, mask=c0 + c < channels)


def gate(xs: list[Tensor], gate: Sequence[Tensor | None], kind: int) -> list[Tensor]:
    """Launches once: gates [B, m, n] and pooled [B, m, C]."""
    x, parameters = xs[0], as_gate(gate, kind)
    geometry, (m, n, units) = geometry_like(x), parameters.sizes
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    gates = x.new_empty((geometry.batch, m, n), dtype=dtype)
    pooled = x.new_empty((geometry.batch, m, geometry.channels), dtype=dtype)
    if geometry.batch == 0:
        return [gates, pooled]
    chunks = chunks_of(geometry, units, x.dtype.itemsize)
    partial = pooled.new_empty((geometry.batch, m, chunks.count, units))
    constants = chunk_constants(chunks)
    del constants["BLOCK_WALK"]
    inputs = reading(xs, geometry, x)
    rows = rows_of(geometry, inputs)
    with on_device_of(x):
        gate_kernel[(geometry.batch,)](
            *inputs,
            parameters,
            gates,
            pooled,
            partial,
            geometry.channels,
            geometry.positions,
            chunks.count,
            INPUTS=m,
            OUTPUTS=n,
            HIDDEN=units,
            CHANNELS_LAST=geometry.channels_last,
            WIDE=rows.wide,
            UNIT=rows.unit,
            BLOCK_HIDDEN=next_power_of_2(units),
            BLOCK_OUTPUTS=next_power_of_2(n),
            **constants,
        )
    return [gates, pooled]


def gate_backward(
    grad: Tensor, kept: list[Tensor], gate: Sequence[Tensor | None], kind: int, wanted: int
) -> list[Tensor]:
    """Launches once, and once more where parameters want gradients."""
    parameters = as_gate(gate, kind)
    grad_gates, gates, pooled = (t.contiguous() for t in (grad, *kept))
    (batch, inputs, channels), (_, outputs, units) = pooled.shape, parameters.sizes
    grad_pooled = pooled.new_empty(pooled.shape)
    grad_logits = pooled.new_empty((batch, inputs, outputs))
    grad_hidden, hidden = (pooled.new_empty((batch, inputs, units)) for _ in range(2))
    block = max(1, WALK_WEIGHTS // next_power_of_2(units))
    block = min(next_power_of_2(channels), block)
    if batch > 0:
        with on_device_of(pooled):
            gate_backward_kernel[(batch,)](
                grad_gates,
                gates,
                pooled,
                parameters,
                grad_pooled,
                grad_logits,
                grad_hidden,
                hidden,
                channels,
                INPUTS=inputs,
                OUTPUTS=outputs,
                HIDDEN=units,
                LONG=is_long(-(-channels // block)),
                BLOCK_CHANNELS=block,
                BLOCK_HIDDEN=next_power_of_2(units),
                BLOCK_OUTPUTS=next_power_of_2(outputs),
                num_warps=4,
            )
    of_parameters = parameter_gradients(
        grad_logits, grad_hidden, hidden, pooled, gate, flags_of(wanted, len(gate))
    )
    return [grad_pooled, *of_parameters]
