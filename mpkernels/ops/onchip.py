"""Which samples the CUDA C++ kernels keep in shared memory, and over how many blocks.

csrc/cuda/plan.h counts the same bytes. No rule depends on the batch: the order of a sample's sums
follows from the size of its cluster.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkernels.ops.internals import has_kernel
from mpkernels.ops.layout import Geometry, geometry_of

MAX_KEPT = 4
MAX_PATHS = 8
CLUSTERS = (1, 2, 4, 8, 16)
# What CUDA takes of a multiprocessor's shared memory for each block.
RESERVED_BYTES = 1024


class Chip(NamedTuple):
    """Shared memory of a GPU, and the largest cluster of blocks that it runs."""

    block_bytes: int
    multiprocessor_bytes: int
    cluster: int


# An H100: assumed where there is no GPU.
ASSUMED = Chip(232448, 233472, 16)


class OnChip(NamedTuple):
    """The blocks of a cluster keep a sample; a cluster of one is a block."""

    cluster: int
    bytes: int  # of a block's shared memory

    @property
    def method(self) -> str:
        """Its name in `explain`."""
        return "shared" if self.cluster == 1 else "cluster"


@lru_cache(maxsize=64)
def chip_of(device: torch.device) -> Chip | None:
    """The chip behind a CUDA device, or None where the CUDA C++ library has no kernels for it."""
    if device.type != "cuda" or not has_kernel("cross_connect_cuda", "CUDA"):
        return None
    properties = torch.cuda.get_device_properties(device)
    generation = (properties.major, properties.minor)
    if generation < (8, 0):
        return None
    cluster = 16 if properties.major in (9, 10) else 8 if properties.major > 10 else 1
    return Chip(
        properties.shared_memory_per_block_optin,  # type: ignore[attr-defined]
        properties.shared_memory_per_multiprocessor,
        cluster,
    )


def threads_for(kept_bytes: int) -> int:
    """Threads of a block that keeps so many bytes."""
    return 512 if kept_bytes > 114688 else 256


def _parts(size: int, by: int) -> int:
    return -(-size // by)


def _padded(floats: int) -> int:
    return _parts(floats, 4) * 4


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
    vector = 16 // itemsize
    unit = vector // math.gcd(vector, geometry.cols)
    rows = _parts(_parts(geometry.rows, cluster), unit) * unit
    channels = _parts(geometry.channels, cluster) if geometry.channels_last else rows
    tiles = kept * _parts(rows * geometry.cols, vector) * 16
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
    """
    kept = outputs if backward else inputs
    if itemsize == 8 or kept > MAX_KEPT or max(inputs, outputs) > MAX_PATHS:
        return None
    if geometry.channels * geometry.positions == 0:
        return None
    candidates = [
        OnChip(
            cluster,
            shared_bytes(geometry, inputs, outputs, hidden, itemsize, kept, cluster, backward),
        )
        for cluster in CLUSTERS
        if cluster <= chip.cluster
    ]
    half = chip.multiprocessor_bytes // 2 - RESERVED_BYTES
    for most in (half, chip.block_bytes):
        # 16 blocks are not portable, and find a place for few clusters: the last choice.
        for one in candidates:
            if one.bytes <= most and (one.cluster <= 8 or most == chip.block_bytes):
                return one
    return None


def _cluster(xs: list[Tensor], gate: Sequence[Any], backward: bool) -> int:
    x, chip = xs[0], chip_of(xs[0].device)
    w1, _, w2, _ = gate
    sizes = len(xs), w2.shape[1], w1.shape[1], x.dtype.itemsize
    kept = chip and on_chip(geometry_of(x), *sizes, chip, backward)
    if kept:
        return kept.cluster
    raise RuntimeError(
        f"mpkernels.cross_connect: use_backend('native') cannot run on these CUDA tensors: no "
        f"cluster of blocks keeps a sample of {len(xs)} to {w2.shape[1]} maps "
        f"{list(x.shape[1:])} of {x.dtype} in shared memory"
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
