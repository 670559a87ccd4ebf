"""Gradients of the gates' parameters: sums over the batch in a fixed order.

Programs share the batch in parts of PARAMETER_SAMPLES; where there are several parts, a second
launch adds them in order. Reads B m (C + n + 2K) values, some of them again from L2: pooled values
once for every 4 hidden units. The maps are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from mpkernels.triton.launch import (
    PARAMETER_SAMPLES,
    dependent_launch,
    next_power_of_2,
    on_device_of,
)
from mpkernels.triton.launching import launched
from mpkernels.triton.sums import end_of, span_of

_VALUES = 2048  # that a program sums at a time: 16 for each of 128 threads


@triton.jit
def _sums(
    left, right, i, first, end, p, q,
    INPUTS: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, BLOCK_BATCH: tl.constexpr,
    BLOCK_LEFT: tl.constexpr, BLOCK_RIGHT: tl.constexpr,
):  # fmt: skip
    """Sums over samples [first, end): l r^T and l, for l = left[b, i, p] and r = right[b, i, q]."""
    ACC: tl.constexpr = left.dtype.element_ty
    b = tl.arange(0, BLOCK_BATCH)
    products = tl.zeros([BLOCK_BATCH, BLOCK_LEFT, BLOCK_RIGHT], ACC)
    total = tl.zeros([BLOCK_BATCH, BLOCK_LEFT], ACC)
    for b0 in range(first, end, BLOCK_BATCH):
        present = (b0 + b < end)[:, None]
        path = (b0 + b).to(tl.int64)[:, None] * INPUTS + i
        of_left = present & (p < LEFT)[None, :]
        of_right = present & (q < RIGHT)[None, :]
        lefts = tl.load(left + path * LEFT + p[None, :], mask=of_left, other=0.0)
        rights = tl.load(right + path * RIGHT + q[None, :], mask=of_right, other=0.0)
        products += lefts[:, :, None] * rights[:, None, :]
        total += lefts
    return tl.sum(products, 0), tl.sum(total, 0)


@triton.jit(do_not_specialize=["batch"])
def _parameter_gradients_kernel(
    grad_logits, grad_hidden, hidden, pooled, grad_w1, grad_b1, grad_w2, grad_b2, batch,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS: tl.constexpr, HIDDEN: tl.constexpr,
    SAMPLES: tl.constexpr, BLOCK_BATCH: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """dW1 = sum_b dH z^T, db1 = sum_b dH, dW2 = sum_b dA h^T, db2 = sum_b dA.

    One program owns one part of the batch, a block of hidden units of one path and a block of
    channels, for dW1 and db1; one more for each block of hidden units owns dW2 and db2. Samples
    are added in a fixed order. Part t of a gradient is stored t times its size further on.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_wait()  # for what the backward has left
        tl.extra.cuda.gdc_launch_dependents()  # not before, so that no third launch overlaps
    HIDDEN_BLOCKS: tl.constexpr = tl.cdiv(HIDDEN, BLOCK_HIDDEN)
    part = tl.program_id(0).to(tl.int64)
    first = tl.program_id(0) * SAMPLES
    end = tl.minimum(first + SAMPLES, batch)
    i, block = tl.program_id(1) // HIDDEN_BLOCKS, tl.program_id(1) % HIDDEN_BLOCKS
    k = block * BLOCK_HIDDEN + tl.arange(0, BLOCK_HIDDEN)
    path = part * INPUTS + i
    if tl.program_id(2) < tl.num_programs(2) - 1:
        c = tl.program_id(2) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
        dw1, db1 = _sums(
            grad_hidden, pooled, i, first, end, k, c,
            INPUTS, HIDDEN, CHANNELS, BLOCK_BATCH, BLOCK_HIDDEN, BLOCK_CHANNELS,
        )  # fmt: skip
        if grad_w1 is not None:
            to_w1 = grad_w1 + (path * HIDDEN + k[:, None]) * CHANNELS + c[None, :]
            of_w1 = (k < HIDDEN)[:, None] & (c < CHANNELS)[None, :]
            tl.store(to_w1, dw1.to(grad_w1.dtype.element_ty), mask=of_w1)
        if grad_b1 is not None:
            of_b1 = (k < HIDDEN) & (tl.program_id(2) + tl.zeros([BLOCK_HIDDEN], tl.int32) == 0)
            tl.store(grad_b1 + path * HIDDEN + k, db1.to(grad_b1.dtype.element_ty), mask=of_b1)
    else:
        j = tl.arange(0, BLOCK_OUTPUTS)
        dw2, db2 = _sums(
            grad_logits, hidden, i, first, end, j, k,
            INPUTS, OUTPUTS, HIDDEN, BLOCK_BATCH, BLOCK_OUTPUTS, BLOCK_HIDDEN,
        )  # fmt: skip
        if grad_w2 is not None:
            to_w2 = grad_w2 + (path * OUTPUTS + j[:, None]) * HIDDEN + k[None, :]
            of_w2 = (j < OUTPUTS)[:, None] & (k < HIDDEN)[None, :]
            tl.store(to_w2, dw2.to(grad_w2.dtype.element_ty), mask=of_w2)
        if grad_b2 is not None:
            of_b2 = (j < OUTPUTS) & (block + tl.zeros([BLOCK_OUTPUTS], tl.int32) == 0)
            tl.store(grad_b2 + path * OUTPUTS + j, db2.to(grad_b2.dtype.element_ty), mask=of_b2)


@triton.jit(do_not_specialize=["count"])
def _add_parts_kernel(
    parts, grads, sizes, count,
    GRADS: tl.constexpr, BLOCK_PARTS: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The sum of the `count` parts of each gradient; one program owns a block of one gradient."""
    if OVERLAP:
        tl.extra.cuda.gdc_wait()  # for the parts
    t, at = tl.arange(0, BLOCK_PARTS)[:, None], tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    for g in tl.static_range(GRADS):
        if tl.program_id(1) == g:
            whole = tl.zeros([BLOCK], parts[g].dtype.element_ty)
            span = span_of(count, BLOCK_PARTS, True)
            for first in range(0, count, span):
                total = tl.zeros([BLOCK_PARTS, BLOCK], parts[g].dtype.element_ty)
                for t0 in range(first, end_of(first, span, count, True), BLOCK_PARTS):
                    inside = (t0 + t < count) & (at < sizes[g])[None, :]
                    of_part = parts[g] + (t0 + t).to(tl.int64) * sizes[g] + at[None, :]
                    total += tl.load(of_part, mask=inside, other=0.0)
                whole += tl.sum(total, 0)
            tl.store(grads[g] + at, whole.to(grads[g].dtype.element_ty), mask=at < sizes[g])


def parameter_gradients(
    grad_logits: Tensor,
    grad_hidden: Tensor,
    hidden: Tensor,
    pooled: Tensor,
    parameters: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor]:
    """The wanted ones of dW1, db1, dW2, db2, in this order."""
    grads = [
        p.new_empty(p.shape) if w and p is not None else None for p, w in zip(parameters, wanted)
    ]
    written = [g for g in grads if g is not None]
    if not written:
        return written
    batch, inputs, channels = pooled.shape
    count = -(-batch // PARAMETER_SAMPLES) or 1
    parts = grads
    if count > 1:
        parts = [None if g is None else pooled.new_empty((count, *g.shape)) for g in grads]
    units, outputs = hidden.shape[2], grad_logits.shape[2]
    block_hidden, block_channels = (
        min(next_power_of_2(x), y) for x, y in ((units, 4), (channels, 16))
    )
    block_outputs = next_power_of_2(outputs)
    block_batch = max(1, _VALUES // (block_hidden * max(block_channels, block_outputs)))
    grid = (count, inputs * -(-units // block_hidden), -(-channels // block_channels) + 1)
    with on_device_of(pooled):
        launched(_parameter_gradients_kernel, grid)(
            grad_logits,
            grad_hidden,
            hidden,
            pooled,
            *parts,
            batch,
            INPUTS=inputs,
            OUTPUTS=outputs,
            CHANNELS=channels,
            HIDDEN=units,
            SAMPLES=PARAMETER_SAMPLES,
            BLOCK_BATCH=min(block_batch, PARAMETER_SAMPLES),
            BLOCK_CHANNELS=block_channels,
            BLOCK_HIDDEN=block_hidden,
            BLOCK_OUTPUTS=block_outputs,
            num_warps=4,
            **dependent_launch(pooled.device),
        )
        if count > 1:
            add_parts([part for part in parts if part is not None], written)
    return written


def add_parts(parts: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    """Launches once: each gradient is the sum of its parts, [parts, *gradient], in order."""
    sizes = tuple(g.numel() for g in grads)
    launched(_add_parts_kernel, (-(-max(sizes) // 128), len(grads)))(
        tuple(parts),
        tuple(grads),
        sizes,
        len(parts[0]),
        GRADS=len(grads),
        BLOCK_PARTS=16,
        BLOCK=128,
        num_warps=4,
        **dependent_launch(grads[0].device),
    )
