"""How far one accumulator goes in a long sum, so that its error does not grow with the sum.

A serial sum of N terms is off by up to N roundings. Here an accumulator takes TERMS of them, then
its sum goes to the next level: lanes of a tile to the tile's sum, tiles' sums to the whole. Only
where the whole would take more than MOST of those do lanes take more, so that neither exceeds MOST
up to MOST^2 steps of a loop: 2^25 positions, 128 a step, or 2^20 samples. The order follows from
the length of the sum alone, never from the batch or the grid.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mpkernels.triton.launch import SUM_TERMS

TERMS = tl.constexpr(SUM_TERMS)
MOST = tl.constexpr(512)


@triton.jit
def span_of(size, BLOCK: tl.constexpr, LONG: tl.constexpr):
    """How much of `size` one accumulator takes, in steps of BLOCK; not LONG: all of it."""
    if LONG:
        return tl.maximum(tl.cdiv(size, MOST * BLOCK), TERMS) * BLOCK
    else:
        return 1


@triton.jit
def spans_of(size, LONG: tl.constexpr):
    """The end of a loop over spans; not LONG: one that the compiler sees to be one step."""
    return size if LONG else 1


@triton.jit
def end_of(first, span, size, LONG: tl.constexpr):
    """The end of the span that begins at `first`."""
    return tl.minimum(first + span, size) if LONG else size


@triton.jit
def sum_of_rows(
    parts, stride, rows, SIZE: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_ROWS: tl.constexpr
):
    """The sum of `rows` rows of SIZE values, `stride` apart: [1, BLOCK_SIZE].

    A block of TERMS rows or fewer holds all of them; of a larger one, each takes further rows.
    """
    row, at = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_SIZE)[None, :]
    total = tl.load(parts + row * stride + at, mask=(row < rows) & (at < SIZE), other=0.0)
    if BLOCK_ROWS > TERMS:
        for first in range(BLOCK_ROWS, rows, BLOCK_ROWS):
            further = first + row
            inside = (further < rows) & (at < SIZE)
            total += tl.load(parts + further * stride + at, mask=inside, other=0.0)
    return tl.sum(total, 0)[None, :]
