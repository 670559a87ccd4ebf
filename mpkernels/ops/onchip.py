"""Which samples the CUDA C++ kernels keep in shared memory, and over how many blocks.

csrc/cuda/plan.h counts the same bytes. The card says how many clusters it runs at a time. No rule
depends on the batch: the order of a sample's sums follows from the size of its cluster.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkernels.ops.chip import Block, Chip, chip_of
from mpkernels.ops.layout import Geometry, geometry_of

MAX_KEPT = 4
MAX_PATHS = 8
CLUSTERS = (1, 2, 4, 8, 16)
# Clusters that fill less of a chip than this leave too much of it idle.
LEAST_SHARE = 0.6


class OnChip(NamedTuple):
    """The blocks of a cluster keep a sample; a cluster of one is a block."""

    cluster: int
    bytes: int  # of a block's shared memory

    @property
    def method(self) -> str:
        """Its name in `explain`."""
        return "shared" if self.cluster == 1 else "cluster"


def threads_for(kept_bytes: int) -> int:
    """Threads of a block that keeps so many bytes."""
    return 512 if kept_bytes > 114688 else 256


def _parts(size: int, by: int) -> int:
    return -(-size // by)


def _padded(floats: int) -> int:
    return _parts(floats, 4) * 4


def _rows(geometry: Geometry, itemsize: int, cluster: int) -> int:
    """Rows of a block's part of a map, which starts at 16 bytes."""
    vector = 16 // itemsize
    unit = vector // math.gcd(vector, geometry.cols)
    return _parts(_parts(geometry.rows, cluster), unit) * unit


def _kept_bytes(geometry: Geometry, itemsize: int, kept: int, cluster: int) -> int:
    """Bytes of the tiles of the maps that a block keeps."""
    vector = 16 // itemsize
    return kept * _parts(_rows(geometry, itemsize, cluster) * geometry.cols, vector) * 16


def shared_bytes(
    geometry: Geometry,
    inputs: int,
    outputs: int,
    hidden: int,
    itemsize: int,
    kept: int,
    cluster: int,
    backward: bool = False,
) -> int:
    """Bytes of shared memory of a block that keeps its part of `kept` maps.

    Args:
        geometry: of one map.
        inputs: m.
        outputs: n.
        hidden: K.
        itemsize: bytes of an element.
        kept: m forward, backward the gradients that there are.
        cluster: blocks that share a sample, by whole rows.
        backward: the direction.
    """
    vector, rows = 16 // itemsize, _rows(geometry, itemsize, cluster)
    channels = _parts(geometry.channels, cluster) if geometry.channels_last else rows
    tiles = _kept_bytes(geometry, itemsize, kept, cluster)
    threads = threads_for(tiles)
    steps = geometry.cols if geometry.cols % vector else geometry.cols // vector
    groups = max(1, min(threads // steps, rows))
    units, pairs = inputs * hidden, inputs * outputs
    floats = [units + outputs * units + pairs, inputs * channels, units, pairs]
    if backward:
        floats += [units + inputs * kept, threads // 32 * inputs * kept]
        floats += [pairs, units, inputs * channels]
        floats += [inputs * geometry.channels] if geometry.channels_last else []
    else:
        floats += [units]
        if geometry.channels_last:
            floats += [inputs * geometry.channels, groups * geometry.channels]
    return tiles + 4 * sum(map(_padded, floats))


def _why_unfit(
    geometry: Geometry, inputs: int, outputs: int, itemsize: int, backward: bool
) -> str | None:
    """Why no kernel keeps such a sample, whatever the card, or None."""
    kept = outputs if backward else inputs
    if itemsize == 8:
        return "float64 has no kernel"
    if max(inputs, outputs) > MAX_PATHS:
        return f"kernels have up to {MAX_PATHS} paths"
    if kept > MAX_KEPT:
        return f"{kept} maps would be kept, kernels keep up to {MAX_KEPT}"
    return None if geometry.channels * geometry.positions else "the maps are empty"


def _blocks(
    geometry: Geometry,
    inputs: int,
    outputs: int,
    hidden: int,
    itemsize: int,
    chip: Chip,
    backward: bool,
) -> list[Block]:
    """A block of each cluster that may be asked for, whether it fits or not."""
    kept, blocks = outputs if backward else inputs, []
    for cluster in CLUSTERS:
        if cluster <= chip.cluster:
            threads = threads_for(_kept_bytes(geometry, itemsize, kept, cluster))
            sizes = inputs, outputs, hidden, itemsize, kept, cluster, backward
            size = shared_bytes(geometry, *sizes)
            blocks.append(Block(backward, itemsize, kept, cluster, threads, size))
    return blocks


def _share(block: Block, chip: Chip) -> float:
    """Blocks that run at a time, of those that would if they were no clusters.

    A backward to which some gradients are missing keeps fewer maps, in blocks that need less.
    """
    if block.cluster == 1:
        return 1.0
    room = chip.multiprocessors * chip.beside(block.bytes)
    return chip.active_clusters(block) * block.cluster / room


def _shares(blocks: list[Block], chip: Chip) -> Iterator[tuple[Block, float]]:
    """The blocks that fit, in the order in which they are taken, with their shares of the chip."""
    fit = [block for block in blocks if block.bytes <= chip.block_bytes]
    # 16 blocks are not portable, and find a place for few clusters: the last choice.
    pairs = [block for block in fit if chip.beside(block.bytes) == 2 and block.cluster <= 8]
    return ((block, _share(block, chip)) for block in [*pairs, *fit])


@lru_cache(maxsize=4096)
def on_chip(
    geometry: Geometry,
    inputs: int,
    outputs: int,
    hidden: int,
    itemsize: int,
    chip: Chip,
    backward: bool = False,
) -> OnChip | None:
    """The smallest cluster of which two blocks fit a multiprocessor: one loads, the other waits.

    Where none is large enough for that, the smallest whose blocks fit at all; None if none does.
    A cluster that would leave much of the chip idle is passed over.
    """
    if _why_unfit(geometry, inputs, outputs, itemsize, backward):
        return None
    blocks = _blocks(geometry, inputs, outputs, hidden, itemsize, chip, backward)
    for block, share in _shares(blocks, chip):
        if share >= LEAST_SHARE:
            return OnChip(block.cluster, block.bytes)
    return None


@lru_cache(maxsize=4096)
def forced_on_chip(
    geometry: Geometry,
    inputs: int,
    outputs: int,
    hidden: int,
    itemsize: int,
    chip: Chip | None,
    backward: bool = False,
) -> OnChip | str:
    """What `use_backend("native")` runs, or why nothing.

    Where every cluster leaves much of the chip idle, it is the one that leaves least: better slow
    than an error.
    """
    if chip is None:
        return "the CUDA C++ library has no kernel for this GPU"
    if reason := _why_unfit(geometry, inputs, outputs, itemsize, backward):
        return reason
    if chosen := on_chip(geometry, inputs, outputs, hidden, itemsize, chip, backward):
        return chosen
    blocks = _blocks(geometry, inputs, outputs, hidden, itemsize, chip, backward)
    found = list(_shares(blocks, chip))
    if not found:
        least = blocks[-1]
        one = f"a block of {least.cluster}" if least.cluster > 1 else "a block"
        return f"{one} needs {least.bytes} bytes of shared memory, and has {chip.block_bytes}"
    block, share = max(found, key=lambda each: each[1])
    if share > 0:
        return OnChip(block.cluster, block.bytes)
    wanted = dict.fromkeys(f"{b.cluster} blocks with {b.bytes} bytes" for b, _ in found)
    return f"this GPU runs no cluster of {' or '.join(wanted)} of shared memory each"


def _cluster(xs: list[Tensor], gate: Sequence[Any], backward: bool) -> int:
    x, (w1, _, w2, _) = xs[0], gate
    sizes = len(xs), w2.shape[1], w1.shape[1], x.dtype.itemsize
    kept = forced_on_chip(geometry_of(x), *sizes, chip_of(x.device), backward)
    if isinstance(kept, OnChip):
        return kept.cluster
    raise RuntimeError(
        f"mpkernels.cross_connect: use_backend('native') cannot run on these CUDA tensors: no "
        f"cluster of blocks keeps a sample of {len(xs)} to {w2.shape[1]} maps "
        f"{list(x.shape[1:])} of {x.dtype} in shared memory: {kept}"
    )


def run_on(device: torch.device, operator: Callable[..., Any], *arguments: Any) -> Any:
    """Calls an operator of CUDA C++, which cannot see why an allocation failed.

    PyTorch then repeats it, and raises what its users catch: torch.OutOfMemoryError.
    """
    try:
        return operator(*arguments)
    except RuntimeError as error:
        failed = re.search(r"torch did not allocate (\d+) bytes", str(error))
        if failed is None:
            raise
        torch.empty(int(failed[1]), dtype=torch.uint8, device=device)
    return operator(*arguments)  # there is memory again


def cross_connect(xs: list[Tensor], gate: Sequence[Any], kind: int) -> Any:
    """The operator by CUDA C++; RuntimeError where no cluster keeps a sample."""
    operator = torch.ops.mpkernels.cross_connect_cuda
    return run_on(xs[0].device, operator, xs, gate, kind, _cluster(xs, gate, False))


def cross_connect_backward(
    grads: Any, kept: Any, xs: list[Tensor], gate: Sequence[Any], kind: int, wanted: int
) -> Any:
    """Its gradient; the same."""
    operator = torch.ops.mpkernels.cross_connect_backward_cuda
    rest = xs, gate, kind, wanted, _cluster(xs, gate, True)
    return run_on(xs[0].device, operator, grads, kept, *rest)
