"""A GPU as the CUDA C++ kernels see it: shared memory, and how many clusters run at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import torch

from mpkernels.ops.internals import has_kernel

# What CUDA takes of a multiprocessor's shared memory for each block.
RESERVED_BYTES = 1024


class Block(NamedTuple):
    """A block of a kernel, which its direction and the maps that it keeps tell."""

    backward: bool
    itemsize: int
    kept: int
    cluster: int  # so many blocks share a sample
    threads: int
    bytes: int  # of shared memory


class Chip(NamedTuple):
    """What a GPU has for blocks and clusters of them."""

    block_bytes: int
    multiprocessor_bytes: int
    multiprocessors: int
    cluster: int  # the largest that may be asked for
    active_clusters: Callable[[Block], int]  # how many run at a time

    def beside(self, block_bytes: int) -> int:
        """Blocks that share a multiprocessor, two at most: one loads while the other waits."""
        return min(2, self.multiprocessor_bytes // (block_bytes + RESERVED_BYTES))


def h100(parts: tuple[int, ...]) -> Chip:
    """An H100 by the multiprocessors of its parts (GPCs): a cluster lies within one of them."""

    def active_clusters(block: Block) -> int:
        return sum(part * chip.beside(block.bytes) // block.cluster for part in parts)

    chip = Chip(232448, 233472, sum(parts), 16, active_clusters)
    return chip


# Assumed where there is no GPU.
ASSUMED = h100((16,) * 6 + (18,) * 2)


@lru_cache(maxsize=4096)
def _active_clusters(device: int, block: Block) -> int:
    """Asks CUDA, once for each device: cards of one name differ in their parts."""
    return torch.ops.mpkernels.active_clusters_cuda(device, *block)  # type: ignore[no-any-return]


@lru_cache(maxsize=64)
def chip_of(device: torch.device) -> Chip | None:
    """The chip behind a CUDA device, or None where the CUDA C++ library has no kernels for it."""
    if device.type != "cuda" or not has_kernel("active_clusters_cuda", "CompositeExplicitAutograd"):
        return None
    properties = torch.cuda.get_device_properties(device)
    if properties.major < 8:
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return Chip(
        properties.shared_memory_per_block_optin,  # type: ignore[attr-defined]
        properties.shared_memory_per_multiprocessor,
        properties.multi_processor_count,
        16 if properties.major >= 9 else 1,
        partial(_active_clusters, index),
    )
