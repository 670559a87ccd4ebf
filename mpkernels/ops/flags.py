"""Flags of an operator's tensors as one integer: which gradients a backward computes."""

from __future__ import annotations

from functools import lru_cache

# The highest bit of an integer of 64 bits that is not its sign. Tensors beyond it share it.
_LAST = 62


@lru_cache(maxsize=4096)
def mask_of(flags: tuple[bool, ...]) -> int:
    """The `wanted` of a backward's schema: bit q is the flag of tensor q."""
    mask = 0
    for q, flag in enumerate(flags):
        mask |= flag << min(q, _LAST)
    return mask


@lru_cache(maxsize=4096)
def flags_of(wanted: int, count: int) -> tuple[bool, ...]:
    """The flags of so many tensors."""
    return tuple(bool(wanted >> min(q, _LAST) & 1) for q in range(count))
