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
def lanes_of(parts, inside, stride, count, LANES: tl.constexpr, MANY: tl.constexpr):
    """Sums of `count` values at each of the pointers `parts` and further on, `stride` apart.

    [LANES, *parts]: lane l has the value l, and if there are MANY, also l + LANES, and so on, in
    spans of at most 512 that are added in turn.
    """
    if len(parts.shape) == 2:
        lane = tl.arange(0, LANES)[:, None, None]
    else:
        lane = tl.arange(0, LANES)[:, None]
    parts, inside = tl.expand_dims(parts, 0), tl.expand_dims(inside, 0)
    whole = tl.load(parts + lane * stride, mask=inside & (lane < count), other=0.0)
    if MANY:
        span = span_of(count, LANES, True)
        for first in range(LANES, count, span):
            total = tl.zeros(whole.shape, whole.dtype)
            for at in range(first, end_of(first, span, count, True), LANES):
                further = at + lane
                present = inside & (further < count)
                total += tl.load(parts + further * stride, mask=present, other=0.0)
            whole += total
    return whole


@triton.jit
def joined(values):
    """Several tensors of one shape along a new last axis, a power of two, whose last are 0.

    A thread keeps what it has of all of them, so that one exchange between threads serves all.
    """
    COUNT: tl.constexpr = len(values)
    SIZE: tl.constexpr = triton.next_power_of_2(COUNT)
    SHAPE: tl.constexpr = values[0].shape
    for _ in tl.static_range(SIZE - COUNT):
        values = values + (tl.zeros_like(values[0]),)
    for level in tl.static_range(10):  # halves of up to 1,024
        if (SIZE >> level) > 1:
            pairs = ()
            for k in tl.static_range(SIZE >> level + 1):
                pairs = pairs + (tl.join(values[k], values[k + (SIZE >> level + 1)]),)
            values = pairs
    return values[0].reshape(SHAPE + [SIZE])


@triton.jit
def _sums_of(parts, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """The sums over axis 1 of COUNT of the parts, a power of two."""
    whole = tl.sum(joined(parts[FIRST : FIRST + COUNT]), 1)
    index, sums = tl.arange(0, COUNT)[None, :], ()
    for p in tl.static_range(COUNT):
        sums = sums + (tl.sum(tl.where(index == p, whole, 0.0), 1),)
    return sums


@triton.jit
def sums_of(parts, COUNT: tl.constexpr):
    """The sums over axis 1 of COUNT tensors [N, size]: COUNT times [N].

    Up to 16 of them share the exchanges between threads, which cost the same for one.
    """
    sums = ()
    for group in tl.static_range(COUNT // 16):
        sums = sums + _sums_of(parts, 16 * group, 16)
    for back in tl.static_range(4):
        if (COUNT >> (3 - back)) & 1:
            sums = sums + _sums_of(parts, (COUNT >> (4 - back)) << (4 - back), 1 << (3 - back))
    return sums
