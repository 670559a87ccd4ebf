"""Block sizes by a written rule: pure functions of the shape, tested without a GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from mpkernels.ops.layout import Geometry


def next_power_of_2(size: int) -> int:
    """The smallest power of two that is not below size; 1 for 0."""
    return 1 << max(size - 1, 0).bit_length()


# Above this many kept elements a block spills registers (compiled for sm_80, sm_90 and sm_100,
# fp32 and bf16 alike, for every mix of paths and shape tried; 49,152 already spills).
RESIDENT_ELEMENTS = 32768
# w1 of one path is one tile in the resident kernels; more than this does not fit beside the maps.
RESIDENT_WEIGHTS = 8192
# One tile of a map that is walked in steps, and one tile of w1 that is.
STREAMED_ELEMENTS = 2048
STREAMED_WEIGHTS = 2048


class Launch(NamedTuple):
    """How a kernel covers one sample."""

    method: str  # "resident": the sample stays in registers; "streamed": it is walked twice
    block_rows: int
    block_cols: int
    block_channels: int  # of w1
    num_warps: int


def cross_connect_launch(geometry: Geometry, kept: int, hidden: int) -> Launch:
    """The launch that keeps `kept` maps of a sample, or walks the sample where they do not fit.

    Args:
        geometry: of one map.
        kept: m forward, n backward.
        hidden: K.
    """
    rows, cols = next_power_of_2(geometry.rows), next_power_of_2(geometry.cols)
    channels, units = next_power_of_2(geometry.channels), next_power_of_2(hidden)
    elements = kept * rows * cols
    if elements <= RESIDENT_ELEMENTS and channels * units <= RESIDENT_WEIGHTS:
        # 64 to 128 values a thread leave room for addresses below the 255 registers of a thread.
        warps = 4 if elements <= 8192 else 8
        return Launch("resident", rows, cols, channels, warps)
    return streamed_launch(geometry, hidden)


def streamed_launch(geometry: Geometry, hidden: int) -> Launch:
    """Tiles of up to 2,048 elements, as wide as a row allows, for a block that walks a sample."""
    rows, cols = next_power_of_2(geometry.rows), next_power_of_2(geometry.cols)
    block_cols = min(cols, 512)
    block_rows = min(rows, STREAMED_ELEMENTS // block_cols)
    block_channels = max(1, min(next_power_of_2(geometry.channels), weights_block(hidden)))
    return Launch("streamed", block_rows, block_cols, block_channels, 8)


def weights_block(hidden: int) -> int:
    """Channels of one tile of w1."""
    return max(1, STREAMED_WEIGHTS // next_power_of_2(hidden))


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device; make that the one that holds x."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
