"""How a kernel covers its maps, by a written rule: pure functions, tested without a GPU.

No rule depends on the batch in a way that changes a sample's result.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkernels.ops.chip import Chip, chip_of
from mpkernels.ops.layout import Geometry


def next_power_of_2(size: int) -> int:
    """The smallest power of two that is not below size; 1 for 0."""
    return 1 << max(size - 1, 0).bit_length()


# Above this many kept elements a block spills registers (compiled for sm_80, sm_90 and sm_100,
# fp32 and bf16 alike, for every mix of paths and shape tried; 49,152 already spills).
RESIDENT_ELEMENTS = 32768
# Rows that do not start at 16 bytes are loaded one by one, with an address each (7 x 7 maps).
RESIDENT_UNALIGNED = 16384
# The resident kernels hold w1 of all paths too: so many values of it, and with the maps.
RESIDENT_WEIGHTS = 16384
RESIDENT_VALUES = 40960
# A chunk of a sample that is walked: large against the launch of a block, small against a sample.
CHUNK_ELEMENTS = 8192
# One tile of a map that is walked in steps, and one tile of w1 that is; of all paths, four times.
WALK_ELEMENTS = 2048
WALK_WEIGHTS = 2048
# Partial sums of all hidden units of a sample that are loaded at a time.
PARTIAL_SUMS = 8192
# Terms that one accumulator takes before its sum goes to the next level; see triton/sums.py.
SUM_TERMS = 128
# What may be kept in L2 for a second read; the rest is for what streams through.
L2_SHARE = 0.6
# Below this share of busy multiprocessors a sample is split over several blocks.
BUSY_SHARE = 0.75
# Samples whose gradients of the parameters one program adds; see triton/gate_parameter_grads.py.
PARAMETER_SAMPLES = 128
# A tile of combine: 16 values for each of 128 threads. Its backward keeps m + 1 of them at a time,
# in 256 threads, and leaves one value per channel and tile: twice as many values halve those.
COMBINE_ELEMENTS = 2048
COMBINE_GRAD_ELEMENTS = 4096
# Tiles along the positions that one program adds to the gradients of combine's parameters.
COMBINE_TILES = 1024


class Card(NamedTuple):
    """What the rule and `tune` know about a GPU."""

    multiprocessors: int
    l2_bytes: int
    chip: Chip | None = None  # where CUDA C++ can run: `tune` tries it


# An H100: what `explain` and the interpreter assume where there is no GPU.
ASSUMED = Card(132, 50 * 2**20)


@lru_cache(maxsize=64)
def card_of(device: torch.device) -> Card:
    """The card behind a CUDA device; the assumed one for any other."""
    if device.type != "cuda":
        return ASSUMED
    properties = torch.cuda.get_device_properties(device)
    l2_bytes = properties.L2_cache_size or ASSUMED.l2_bytes
    return Card(properties.multi_processor_count, l2_bytes, chip_of(device))


class Resident(NamedTuple):
    """A block keeps a sample as tiles of `rows` by `cols`."""

    rows: int
    cols: int
    num_warps: int

    @property
    def method(self) -> str:
        """As `Walk` has it."""
        return "resident"


class Chunks(NamedTuple):
    """A sample is walked in chunks of channels; see triton/stages.py."""

    channels: int  # of a chunk
    count: int  # of chunks
    positions: int  # of one tile of the pool
    walk: int  # elements of one tile of the mix
    num_warps: int
    registers: int  # of a thread
    long: bool  # tiles of a sum are more than one accumulator takes


class Walk(NamedTuple):
    """Blocks walk samples twice: "streamed", one block a sample, or "split", one block a chunk."""

    method: str
    samples: int  # in flight: blocks of a streamed launch, samples of a group of split launches
    chunks: Chunks


def chunks_of(
    geometry: Geometry, hidden: int, itemsize: int, inputs: int = 1, outputs: int = 1
) -> Chunks:
    """How a sample of these maps is cut.

    Args:
        geometry: of one map.
        hidden: K.
        itemsize: bytes of an element.
        inputs: m.
        outputs: n; the backward holds m * n sums.
    """
    pairs = inputs * outputs
    channels, positions = next_power_of_2(geometry.channels), max(1, geometry.positions)
    units = next_power_of_2(hidden)
    of_paths = 4 * WALK_WEIGHTS // (units * next_power_of_2(inputs) * (2 if itemsize == 8 else 1))
    most = max(1, min(channels, WALK_WEIGHTS // units, of_paths))
    # Rows stay whole sectors of 32 bytes, and chunks start at 16 bytes.
    least = 32 // itemsize if geometry.channels_last else 16 // math.gcd(16, positions)
    wanted = next_power_of_2(CHUNK_ELEMENTS // positions + 1) // 2
    block = min(max(wanted, least), most)
    walk = WALK_ELEMENTS if pairs <= 16 else WALK_ELEMENTS // 2
    walk = max(8, min(walk, next_power_of_2(block * positions)))
    tile = max(1, min(next_power_of_2(positions), WALK_ELEMENTS // block))
    # Left alone, ptxas spills a register or two where that lets one more block run at a time.
    registers = 128 if pairs <= 4 else 192
    long = is_long(max(-(-positions // tile), -(-block * positions // walk)))
    count = max(1, -(-geometry.channels // block))
    return Chunks(block, count, tile, walk, 8, registers, long)


def chunk_constants(chunks: Chunks, inputs: int, hidden: int) -> dict[str, Any]:
    """Compile-time sizes of a walk in chunks, of gates of m paths with K hidden units."""
    units = next_power_of_2(inputs) * next_power_of_2(hidden)
    lanes = min(next_power_of_2(chunks.count), max(1, PARTIAL_SUMS // units))
    # Only NVIDIA's compiler takes a limit of registers; the kernels are the same.
    limit = {} if torch.version.hip else {"maxnreg": chunks.registers}
    return limit | {
        "BLOCK_CHANNELS": chunks.channels,
        "BLOCK_POSITIONS": chunks.positions,
        "BLOCK_WALK": chunks.walk,
        "BLOCK_CHUNKS": lanes,
        "MANY": chunks.count > lanes,
        "LONG": chunks.long,
        "num_warps": chunks.num_warps,
    }


def kept_elements(geometry: Geometry, kept: int, itemsize: int) -> int:
    """Registers that `kept` maps of a sample take in a block, padded to powers of two."""
    wide = 2 if itemsize == 8 else 1  # float64 is summed in registers twice as large
    return kept * next_power_of_2(geometry.rows) * next_power_of_2(geometry.cols) * wide


def most_kept(geometry: Geometry, itemsize: int) -> int:
    """Up to how many elements a block keeps without spilling."""
    unaligned = geometry.rows > 1 and geometry.cols * itemsize % 16 != 0
    return RESIDENT_UNALIGNED if unaligned else RESIDENT_ELEMENTS


def cross_connect_launch(
    geometry: Geometry,
    inputs: int,
    outputs: int,
    hidden: int,
    itemsize: int,
    card: Card,
    backward: bool = False,
) -> Resident | Walk:
    """Keeps m maps (backward: n gradients) of a sample in a block's registers, or walks it twice.

    CUDA C++ keeps most samples that are walked in shared memory. On an H100 it was slower in all
    but one of the cases where both were timed, at batches of 32 and 64, so only `tune` takes it.

    Args:
        geometry: of one map.
        inputs: m.
        outputs: n.
        hidden: K.
        itemsize: bytes of an element.
        card: the GPU.
        backward: the direction.
    """
    kept = outputs if backward else inputs
    rows, cols = next_power_of_2(geometry.rows), next_power_of_2(geometry.cols)
    elements = kept_elements(geometry, kept, itemsize)
    weights = next_power_of_2(geometry.channels) * next_power_of_2(hidden)
    weights *= next_power_of_2(inputs) * (2 if itemsize == 8 else 1)
    fits = weights <= RESIDENT_WEIGHTS and elements + weights <= RESIDENT_VALUES
    if fits and elements <= most_kept(geometry, itemsize):
        # 32 values of maps for each thread of a small block, up to 128 of a large one, leave room
        # for w1 and addresses below the 255 registers of a thread.
        warps = next_power_of_2(max(elements // 1024, weights // 2048))
        return Resident(rows, cols, min(warps, 8))
    chunks = chunks_of(geometry, hidden, itemsize, inputs, outputs)
    one = max(1, kept * geometry.channels * geometry.positions * itemsize)
    fit = max(1, int(card.l2_bytes * L2_SHARE) // one)
    if min(geometry.batch, fit) >= BUSY_SHARE * card.multiprocessors:
        # Whole waves of blocks, so that none waits for a straggler; less than one where L2 ends.
        return Walk("streamed", fit // card.multiprocessors * card.multiprocessors or fit, chunks)
    return Walk("split", fit, chunks)


def is_long(steps: int) -> bool:
    """Whether so many steps of a loop add more than one accumulator takes."""
    return steps > SUM_TERMS


class Tile(NamedTuple):
    """A block of a launch that takes maps tile by tile."""

    rows: int
    cols: int
    num_warps: int

    def counts(self, geometry: Geometry) -> tuple[int, int]:
        """How many follow each other down the rows of a map and along its columns."""
        return -(-geometry.rows // self.rows), -(-geometry.cols // self.cols)


def combine_tile(geometry: Geometry, itemsize: int, terms: int = 0) -> Tile:
    """Tiles of one output of combine.

    A backward sums along the positions, so its tiles are long there. Rows of channels_last are no
    wider than 64 channels, backward 32: whole sectors of 32 bytes, and a layout of threads that
    loads, parameters and stores share.

    Args:
        geometry: of one output.
        itemsize: bytes of an element.
        terms: m in a backward, 0 in a forward.
    """
    elements = COMBINE_ELEMENTS
    if 0 < terms <= 4:
        elements = COMBINE_GRAD_ELEMENTS
    if itemsize == 8:  # computed in registers twice as large
        elements //= 2
    if geometry.channels_last and geometry.rows > 1:
        most = 32 if terms else 64
    else:
        most = 1024 if terms else 512
    cols = width_of(geometry.cols, most)
    rows = min(next_power_of_2(geometry.rows), elements // cols)
    # More than four terms leave room for 8 values per thread.
    warps = rows * cols // (512 if terms <= 4 and itemsize < 8 else 256)
    return Tile(rows, cols, max(1, min(warps, 8)))


def width_of(cols: int, most: int) -> int:
    """The widest of 128 and more columns that leaves an eighth of its tiles empty; else `most`."""
    widest = width = min(next_power_of_2(cols), most)
    while width >= 128:
        padded = -(-cols // width) * width
        if 8 * (padded - cols) <= padded:
            return width
        width //= 2
    return widest


def combine_samples(along: int) -> int:
    """Samples for which one program adds the partial sums of `along` tiles along the positions.

    Fewer where samples have many tiles; it does not depend on the batch.
    """
    return max(1, min(PARAMETER_SAMPLES, COMBINE_TILES // along))


@lru_cache(maxsize=64)
def overlaps(device: torch.device) -> bool:
    """Whether launches begin before the ones they wait for have ended: NVIDIA, Hopper or later."""
    if device.type != "cuda" or torch.version.hip:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


def dependent_launch(device: torch.device) -> dict[str, bool]:
    """Constants of a kernel that begins beside the one before it, and then waits for it.

    Where the card can: blocks of the second find places as soon as all of the first have begun.
    """
    return {"OVERLAP": True, "launch_pdl": True} if overlaps(device) else {"OVERLAP": False}


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device; make that the one that holds x."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
