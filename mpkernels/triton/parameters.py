"""Gradients of the gates' parameters: sums over the batch in a fixed order, one launch.

Reads 4 B m (C + n + 2K) bytes; the maps are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from mpkernels.triton.launch import next_power_of_2, on_device_of


@triton.jit
def _parameter_gradients_kernel(
    grad_logits, grad_hidden, hidden, pooled, grad_w1, grad_b1, grad_w2, grad_b2, batch,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS: tl.constexpr, HIDDEN: tl.constexpr,
    BLOCK_BATCH: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """dW1 = sum_b dH z^T, db1 = sum_b dH, dW2 = sum_b dA h^T, db2 = sum_b dA.

    One program owns a block of channels of one path; the first one of a path also owns db1, dW2
    and db2. Samples are added in blocks, always in the order of the batch.
    """
    ACC: tl.constexpr = pooled.dtype.element_ty
    i = tl.program_id(0)
    b, j = tl.arange(0, BLOCK_BATCH), tl.arange(0, BLOCK_OUTPUTS)
    k = tl.arange(0, BLOCK_HIDDEN)
    c = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    total_w1 = tl.zeros([BLOCK_HIDDEN, BLOCK_CHANNELS], ACC)
    total_b1 = tl.zeros([BLOCK_HIDDEN], ACC)
    total_w2 = tl.zeros([BLOCK_OUTPUTS, BLOCK_HIDDEN], ACC)
    total_b2 = tl.zeros([BLOCK_OUTPUTS], ACC)
    for b0 in range(0, batch, BLOCK_BATCH):
        present = b0 + b < batch
        sample = (b0 + b).to(tl.int64)[:, None] * INPUTS + i
        of_hidden = present[:, None] & (k < HIDDEN)[None, :]
        dh = tl.load(grad_hidden + sample * HIDDEN + k[None, :], mask=of_hidden, other=0.0)
        if grad_w1 is not None:
            of_channels = present[:, None] & (c < CHANNELS)[None, :]
            z = tl.load(pooled + sample * CHANNELS + c[None, :], mask=of_channels, other=0.0)
            total_w1 += tl.sum(dh[:, :, None] * z[:, None, :], 0)
        if tl.program_id(1) == 0:
            of_outputs = present[:, None] & (j < OUTPUTS)[None, :]
            da = tl.load(grad_logits + sample * OUTPUTS + j[None, :], mask=of_outputs, other=0.0)
            h = tl.load(hidden + sample * HIDDEN + k[None, :], mask=of_hidden, other=0.0)
            total_b1 += tl.sum(dh, 0)
            total_b2 += tl.sum(da, 0)
            total_w2 += tl.sum(da[:, :, None] * h[:, None, :], 0)
    if grad_w1 is not None:
        at = (i * HIDDEN + k[:, None]) * CHANNELS + c[None, :]
        of_w1 = (k < HIDDEN)[:, None] & (c < CHANNELS)[None, :]
        tl.store(grad_w1 + at, total_w1.to(grad_w1.dtype.element_ty), mask=of_w1)
    if tl.program_id(1) == 0:
        if grad_b1 is not None:
            to_b1 = grad_b1 + i * HIDDEN + k
            tl.store(to_b1, total_b1.to(grad_b1.dtype.element_ty), mask=k < HIDDEN)
        if grad_w2 is not None:
            to_w2 = grad_w2 + (i * OUTPUTS + j[:, None]) * HIDDEN + k[None, :]
            of_w2 = (j < OUTPUTS)[:, None] & (k < HIDDEN)[None, :]
            tl.store(to_w2, total_w2.to(grad_w2.dtype.element_ty), mask=of_w2)
        if grad_b2 is not None:
            to_b2 = grad_b2 + i * OUTPUTS + j
            tl.store(to_b2, total_b2.to(grad_b2.dtype.element_ty), mask=j < OUTPUTS)


def parameter_gradients(
    grad_logits: Tensor,
    grad_hidden: Tensor,
    hidden: Tensor,
    pooled: Tensor,
    parameters: tuple[Tensor, Tensor | None, Tensor, Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor]:
    """The wanted ones of dW1, db1, dW2, db2, in this order; launches once if there are any."""
    grads = [
        p.new_empty(p.shape) if w and p is not None else None for p, w in zip(parameters, wanted)
    ]
    made = [g for g in grads if g is not None]
    if not made:
        return made
    batch, inputs, channels = pooled.shape
    units, outputs = hidden.shape[2], grad_logits.shape[2]
    block_channels = min(next_power_of_2(channels), 32)
    with on_device_of(pooled):
        _parameter_gradients_kernel[(inputs, -(-channels // block_channels) or 1)](
            grad_logits,
            grad_hidden,
            hidden,
            pooled,
            *grads,
            batch,
            INPUTS=inputs,
            OUTPUTS=outputs,
            CHANNELS=channels,
            HIDDEN=units,
            BLOCK_BATCH=8,
            BLOCK_CHANNELS=block_channels,
            BLOCK_HIDDEN=next_power_of_2(units),
            BLOCK_OUTPUTS=next_power_of_2(outputs),
            num_warps=4,
        )
    return made
