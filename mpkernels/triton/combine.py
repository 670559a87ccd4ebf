"""combine: Y_j = relu(scale_j sum_i g_ij (U_ij + b_ij) + shift_j), everything after a convolution.

U_i holds the maps of all outputs side by side: U_ij are its channels [j C', (j + 1) C'). In maps of
one output, forward moves m n + n, backward (m n + n) + m n: each U_ij, each dY_j and each dU_ij
once. What decides the activation is computed again from U, which the backward reads anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from mpkernels.ops.flags import flags_of
from mpkernels.ops.layout import Geometry
from mpkernels.triton.combine_parameter_grads import add_tiles, allocate_partials, kept
from mpkernels.triton.launch import Tile, combine_tile, on_device_of
from mpkernels.triton.launch_arguments import (
    contiguous,
    finished,
    geometry_like,
    new_maps,
    reading,
    triton_dtype,
    writing,
)
from mpkernels.triton.launching import launched


@triton.jit
def _tile_of(
    program, OUTPUTS: tl.constexpr, TILES: tl.constexpr, COL_TILES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """Sample, output, number of the tile, and its rows and columns in the map of one output.

    Outputs come first: those that share the rows of U run side by side.
    """
    tile = program // OUTPUTS % TILES
    sample = (program // OUTPUTS // TILES).to(tl.int64)
    row = tile // COL_TILES * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tile % COL_TILES * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    return sample, program % OUTPUTS, tile, row, col


@triton.jit
def _map_of(maps, batch_strides, row_strides, j, OUTPUTS: tl.constexpr):
    """Map j and its strides: selected, since the j of a program is no constant."""
    y, batch_stride, row_stride = maps[0], batch_strides[0], row_strides[0]
    for o in tl.static_range(1, OUTPUTS):
        y = tl.where(j == o, maps[o], y)
        batch_stride = tl.where(j == o, batch_strides[o], batch_stride)
        row_stride = tl.where(j == o, row_strides[o], row_stride)
    return y, batch_stride, row_stride


@triton.jit
def _of_channels(parameter, first, c, CHANNELS: tl.constexpr, ACC: tl.constexpr):
    """A row or a column of a parameter of one value per channel."""
    return tl.load(parameter + first + c, mask=c < CHANNELS, other=0.0).to(ACC)


@triton.jit
def _weights(
    gates, sample, j, batch_stride, input_stride, output_stride,
    INPUTS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The m weights g_ij."""
    weights = ()
    for i in tl.static_range(INPUTS):
        at = gates + sample * batch_stride + i * input_stride + j * output_stride
        weights = weights + (tl.load(at).to(ACC),)
    return weights


@triton.jit
def _terms(
    us, u_batch_strides, u_row_strides, bias, sample, j, row, col, c, inside,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The m tiles U_ij + b_ij; row and col are those of U."""
    terms = ()
    for i in tl.static_range(INPUTS):
        at = sample * u_batch_strides[i] + row.to(tl.int64) * u_row_strides[i] + col
        term = tl.load(us[i] + at, mask=inside, other=0.0).to(ACC)
        if bias is not None:
            term += _of_channels(bias, (i * OUTPUTS + j) * CHANNELS, c, CHANNELS, ACC)
        terms = terms + (term,)
    return terms


@triton.jit
def _sum(terms, weights, INPUTS: tl.constexpr):
    """T_j = sum_i g_ij (U_ij + b_ij), in one order for both directions."""
    total = terms[0] * weights[0]
    for i in tl.static_range(1, INPUTS):
        total += terms[i] * weights[i]
    return total


@triton.jit
def _affine(total, scale, shift, j, c, CHANNELS: tl.constexpr, ACC: tl.constexpr):
    """scale_j T_j + shift_j, whose sign decides the activation."""
    if scale is not None:
        total = total * _of_channels(scale, j * CHANNELS, c, CHANNELS, ACC)
    if shift is not None:
        total = total + _of_channels(shift, j * CHANNELS, c, CHANNELS, ACC)
    return total


@triton.jit
def _combine_kernel(
    us, u_batch_strides, u_row_strides, ys, y_batch_strides, y_row_strides,
    gates, bias, scale, shift, batch_stride, input_stride, output_stride,
    RELU: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    TILES: tl.constexpr, COL_TILES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One program owns one tile of one output of a sample."""
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    sample, j, _, row, col = _tile_of(
        tl.program_id(0), OUTPUTS, TILES, COL_TILES, BLOCK_ROWS, BLOCK_COLS
    )
    c = col if CHANNELS_LAST else row
    inside = (row < ROWS) & (col < COLS)
    # Output j begins j C' channels further on in U.
    u_row = row if CHANNELS_LAST else row + j * CHANNELS
    u_col = col + j * CHANNELS if CHANNELS_LAST else col
    terms = _terms(
        us, u_batch_strides, u_row_strides, bias, sample, j, u_row, u_col, c, inside,
        INPUTS, OUTPUTS, CHANNELS, CHANNELS_LAST, ACC,
    )  # fmt: skip
    weights = _weights(gates, sample, j, batch_stride, input_stride, output_stride, INPUTS, ACC)
    y = _affine(_sum(terms, weights, INPUTS), scale, shift, j, c, CHANNELS, ACC)
    if RELU:
        y = tl.where(y <= 0, 0.0, y)  # NaN passes
    to, y_batch_stride, y_row_stride = _map_of(ys, y_batch_strides, y_row_strides, j, OUTPUTS)
    at = sample * y_batch_stride + row.to(tl.int64) * y_row_stride + col
    tl.store(to + at, y.to(to.dtype.element_ty), mask=inside)


@triton.jit
def _combine_backward_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, us, u_batch_strides, u_row_strides,
    grad_us, grad_u_batch_strides, grad_u_row_strides, gates, bias, scale, shift,
    grad_gates, sums, products, batch_stride, input_stride, output_stride,
    RELU: tl.constexpr, READS: tl.constexpr, PRESENT: tl.constexpr, WANTED: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    TILES: tl.constexpr, COL_TILES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dU_ij = g_ij scale_j D_j for D_j = dY_j where the activation passes; its sums over a tile.

    One program owns one tile of one output of a sample. It leaves sum_cs scale_j D_j (U_ij + b_ij)
    for dg_ij and, of each channel, sum_s D_j and sum_s D_j T_j for the parameters. READS: U decides
    a result. PRESENT and WANTED are bit masks: outputs that have a gradient, U_i that want one.
    """
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    ALONG: tl.constexpr = TILES // COL_TILES if CHANNELS_LAST else COL_TILES
    POSITION_AXIS: tl.constexpr = 0 if CHANNELS_LAST else 1
    ALL: tl.constexpr = PRESENT == (1 << OUTPUTS) - 1
    sample, j, tile, row, col = _tile_of(
        tl.program_id(0), OUTPUTS, TILES, COL_TILES, BLOCK_ROWS, BLOCK_COLS
    )
    c = col if CHANNELS_LAST else row
    inside = (row < ROWS) & (col < COLS)
    present = ((PRESENT >> j) & 1) != 0
    loaded = inside if ALL else inside & present
    u_row = row if CHANNELS_LAST else row + j * CHANNELS
    u_col = col + j * CHANNELS if CHANNELS_LAST else col
    dy, dy_batch_stride, dy_row_stride = _map_of(
        grad_ys, grad_y_batch_strides, grad_y_row_strides, j, OUTPUTS
    )
    at = sample * dy_batch_stride + row.to(tl.int64) * dy_row_stride + col
    d = tl.load(dy + at, mask=loaded, other=0.0).to(ACC)
    weights = _weights(gates, sample, j, batch_stride, input_stride, output_stride, INPUTS, ACC)
    # Of a channel: (sample, tile along the positions, output, channel).
    along = tile // COL_TILES if CHANNELS_LAST else tile % COL_TILES
    to_sums = ((sample * ALONG + along) * OUTPUTS + j) * CHANNELS + c
    if READS:
        terms = _terms(
            us, u_batch_strides, u_row_strides, bias, sample, j, u_row, u_col, c, loaded,
            INPUTS, OUTPUTS, CHANNELS, CHANNELS_LAST, ACC,
        )  # fmt: skip
        total = _sum(terms, weights, INPUTS)
        if RELU:
            d = tl.where(_affine(total, scale, shift, j, c, CHANNELS, ACC) <= 0, 0.0, d)
        if products is not None:
            product = kept(tl.sum(d * total, POSITION_AXIS, keep_dims=True), present, ALL)
            tl.store(products + to_sums, product, mask=c < CHANNELS)
    if sums is not None:
        of_tile = tl.sum(d, POSITION_AXIS, keep_dims=True)
        tl.store(sums + to_sums, of_tile, mask=c < CHANNELS)
    if scale is not None:
        d = d * _of_channels(scale, j * CHANNELS, c, CHANNELS, ACC)
    for i in tl.static_range(INPUTS):
        if (WANTED >> i) & 1:
            at = sample * grad_u_batch_strides[i] + u_row.to(tl.int64) * grad_u_row_strides[i]
            du = kept(d * weights[i], present, ALL).to(grad_us[i].dtype.element_ty)
            tl.store(grad_us[i] + at + u_col, du, mask=inside)
        if grad_gates is not None:
            dot = kept(tl.sum(d * terms[i]), present, ALL).to(grad_gates.dtype.element_ty)
            path = (sample * TILES + tile) * INPUTS + i
            tl.store(grad_gates + path * OUTPUTS + j, dot)


def _constants(one: Geometry, gates: Tensor, u: Tensor, tile: Tile) -> dict[str, Any]:
    rows, cols = tile.counts(one)
    return {
        "INPUTS": gates.shape[1],
        "OUTPUTS": gates.shape[2],
        "CHANNELS": one.channels,
        "POSITIONS": one.positions,
        "CHANNELS_LAST": one.channels_last,
        "TILES": rows * cols,
        "COL_TILES": cols,
        "BLOCK_ROWS": tile.rows,
        "BLOCK_COLS": tile.cols,
        "ACC": triton_dtype(u),
        "num_warps": tile.num_warps,
    }


def combine(
    us: list[Tensor], gates: Tensor, affine: Sequence[Tensor | None], relu: bool
) -> list[Tensor]:
    """Launches once: ys."""
    u, outputs = us[0], gates.shape[2]
    geometry = geometry_like(u)
    one = geometry._replace(channels=geometry.channels // outputs)
    maps = new_maps([u] * outputs, one.channels)
    ys = writing(maps, one, u)
    tile = combine_tile(one, u.element_size())
    programs = one.batch * outputs * math.prod(tile.counts(one))
    if programs > 0:
        with on_device_of(u):
            launched(_combine_kernel, (programs,))(
                *reading(us, geometry, u),
                *ys,
                gates,
                *contiguous(*affine),
                *gates.stride(),
                RELU=relu,
                **_constants(one, gates, u, tile),
            )
    return finished(maps, ys)


def combine_backward(
    grads: list[Tensor | None],
    kept: list[Tensor],
    us: list[Tensor],
    gates: Tensor,
    affine: Sequence[Tensor | None],
    relu: bool,
    wanted: int,
) -> list[Tensor]:
    """Launches once, once more to add what tiles leave, and once more for parts of a batch."""
    flags = flags_of(wanted, len(us) + 1 + len(affine))
    u, inputs, outputs = us[0], len(us), gates.shape[2]
    geometry = geometry_like(u)
    one = geometry._replace(channels=geometry.channels // outputs)
    maps = new_maps([x if w else None for x, w in zip(us, flags)])
    grad_us = writing(maps, geometry, u)
    of_rest = [
        p.new_empty(p.shape) if w and p is not None else None
        for p, w in zip((gates, *affine), flags[inputs:])
    ]
    of_parameters = [grad for grad in of_rest if grad is not None]
    tile = combine_tile(one, u.element_size(), inputs)
    partials = allocate_partials(u, gates, of_rest, one, tile)
    if one.batch * partials.tiles == 0:
        return finished(maps, grad_us) + [grad.zero_() for grad in of_parameters]
    bias, scale, shift = contiguous(*affine)
    present = sum(1 << j for j, grad in enumerate(grads) if grad is not None)
    with on_device_of(u):
        launched(_combine_backward_kernel, (one.batch * partials.tiles * outputs,))(
            *reading(grads, one, u),
            *reading(us, geometry, u),
            *grad_us,
            gates,
            bias,
            scale,
            shift,
            partials.gates,
            partials.sums,
            partials.products,
            *gates.stride(),
            RELU=relu,
            READS=relu or partials.gates is not None or partials.products is not None,
            PRESENT=present,
            WANTED=sum(1 << i for i, w in enumerate(flags[:inputs]) if w),
            **_constants(one, gates, u, tile),
        )
    add_tiles(partials, gates, scale, of_rest, one, present)
    return finished(maps, grad_us) + of_parameters
