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
    load_b1,
    load_of_outputs,
    load_w1,
    load_w2,
    times_w1,
    times_w1_transposed,
)
from mpkernels.triton.gate_parameter_grads import parameter_gradients
from mpkernels.triton.gate_stages import gates_stage
from mpkernels.triton.launch import (
    WALK_WEIGHTS,
    chunk_constants,
    chunks_of,
    is_long,
    next_power_of_2,
    on_device_of,
    overlaps,
)
from mpkernels.triton.launch_arguments import geometry_like, reading, rows_of
from mpkernels.triton.launching import launched
from mpkernels.triton.stages import pool_stage
from mpkernels.triton.sums import end_of, span_of, spans_of


@triton.jit
def gate_kernel(
    xs, x_batch_strides, x_row_strides, gate, gates, pooled, partial,
    channels, positions, chunks,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, UNIT: tl.constexpr, LONG: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
    MANY: tl.constexpr,
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
                INPUTS, HIDDEN, CHANNELS_LAST, WIDE, UNIT, LONG,
                BLOCK_CHANNELS, BLOCK_POSITIONS, BLOCK_HIDDEN,
            )  # fmt: skip
    tl.debug_barrier()  # every thread sees the parts
    gates_stage(
        gate, partial, gates, sample, 0, chunks, gates.dtype.element_ty,
        INPUTS, OUTPUTS, HIDDEN, BLOCK_INPUTS, BLOCK_HIDDEN, BLOCK_CHUNKS, MANY,
    )  # fmt: skip


@triton.jit
def gate_backward_kernel(
    grad_gates, gates, pooled, gate, grad_pooled, grad_logits, grad_hidden, hidden,
    channels, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr,
    LONG: tl.constexpr, OVERLAP: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_INPUTS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """One program owns one sample: dG to dZ, and what the parameters' gradients need."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    ACC: tl.constexpr = pooled.dtype.element_ty
    i, k = tl.arange(0, BLOCK_INPUTS), tl.arange(0, BLOCK_HIDDEN)[:, None]
    c = tl.arange(0, BLOCK_CHANNELS)[:, None]
    path, of_paths = tl.program_id(0).to(tl.int64) * INPUTS + i, i < INPUTS
    b1 = load_b1(gate, i, ACC, INPUTS, HIDDEN, BLOCK_HIDDEN)
    w2 = load_w2(gate, i, ACC, INPUTS, OUTPUTS, HIDDEN, BLOCK_HIDDEN)
    g = load_of_outputs(gates, path, of_paths, ACC, OUTPUTS)
    d = load_of_outputs(grad_gates, path, of_paths, ACC, OUTPUTS)
    total = tl.zeros([BLOCK_HIDDEN, BLOCK_INPUTS], ACC)
    span = span_of(channels, BLOCK_CHANNELS, LONG)
    for first in range(0, spans_of(channels, LONG), span):
        part = tl.zeros([BLOCK_HIDDEN, BLOCK_INPUTS], ACC)
        for c0 in range(first, end_of(first, span, channels, LONG), BLOCK_CHANNELS):
            w1 = load_w1(
                gate, 0, c0, channels, ACC, INPUTS, BLOCK_INPUTS, HIDDEN, BLOCK_HIDDEN,
                BLOCK_CHANNELS,
            )  # fmt: skip
            inside = of_paths[None, :] & (c0 + c < channels)
            z = tl.load(pooled + path[None, :] * channels + c0 + c, mask=inside, other=0.0)
            part += times_w1(w1, z)
        total += part
    h = activate(total, b1, HIDDEN, BLOCK_HIDDEN)
    da, dh = differentiate_gate(g, d, h, w2, OUTPUTS)
    for o in tl.static_range(OUTPUTS):
        tl.store(grad_logits + path * OUTPUTS + o, da[o], mask=of_paths)
    at, of_hidden = path[None, :] * HIDDEN + k, of_paths[None, :] & (k < HIDDEN)
    tl.store(grad_hidden + at, dh, mask=of_hidden)
    tl.store(hidden + at, h, mask=of_hidden)
    for c0 in range(0, channels, BLOCK_CHANNELS):
        w1 = load_w1(
            gate, 0, c0, channels, ACC, INPUTS, BLOCK_INPUTS, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS
        )
        to = grad_pooled + path[None, :] * channels + c0 + c
        inside = of_paths[None, :] & (c0 + c < channels)
        tl.store(to, times_w1_transposed(w1, dh), mask=inside)


def gate(xs: list[Tensor], gate: Sequence[Tensor | None], kind: int) -> list[Tensor]:
    """Launches once: gates [B, m, n] and pooled [B, m, C]."""
    x, parameters = xs[0], as_gate(gate, kind)
    geometry, (m, n, units) = geometry_like(x), parameters.sizes
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    gates = x.new_empty((geometry.batch, m, n), dtype=dtype)
    pooled = x.new_empty((geometry.batch, m, geometry.channels), dtype=dtype)
    if geometry.batch == 0:
        return [gates, pooled]
    chunks = chunks_of(geometry, units, x.dtype.itemsize, m)
    partial = pooled.new_empty((geometry.batch, m, chunks.count, units))
    constants = chunk_constants(chunks, m, units)
    del constants["BLOCK_WALK"]
    inputs = reading(xs, geometry, x)
    rows = rows_of(geometry, inputs)
    with on_device_of(x):
        launched(gate_kernel, (geometry.batch,))(
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
            BLOCK_INPUTS=next_power_of_2(m),
            **constants,
        )
    return [gates, pooled]


def gate_backward(
    grad: Tensor, kept: list[Tensor], gate: Sequence[Tensor | None], kind: int, wanted: int
) -> list[Tensor]:
    """Launches once, and once more where parameters want gradients."""
    parameters, flags = as_gate(gate, kind), flags_of(wanted, len(gate))
    grad_gates, gates, pooled = (t.contiguous() for t in (grad, *kept))
    (batch, inputs, channels), (_, outputs, units) = pooled.shape, parameters.sizes
    grad_pooled = pooled.new_empty(pooled.shape)
    grad_logits = pooled.new_empty((batch, inputs, outputs))
    grad_hidden, hidden = (pooled.new_empty((batch, inputs, units)) for _ in range(2))
    block = max(1, 2 * WALK_WEIGHTS // (next_power_of_2(units) * next_power_of_2(inputs)))
    block = min(next_power_of_2(channels), block)
    if batch > 0:
        with on_device_of(pooled):
            launched(gate_backward_kernel, (batch,))(
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
                OVERLAP=any(flags) and overlaps(pooled.device),
                BLOCK_CHANNELS=block,
                BLOCK_HIDDEN=next_power_of_2(units),
                BLOCK_INPUTS=next_power_of_2(inputs),
                num_warps=4,
            )
    of_parameters = parameter_gradients(grad_logits, grad_hidden, hidden, pooled, gate, flags)
    return [grad_pooled, *of_parameters]
