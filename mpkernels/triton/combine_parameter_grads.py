"""Sums over tiles and samples that form the gradients of combine's gates and parameters.

Every tile of the backward leaves one value per path and two per channel, in float32 (float64 for
float64): 8 bytes per channel beside 2 m + 1 maps of its positions. The order of all sums is fixed.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from mpkernels.eager.functional import accumulate_dtype
from mpkernels.ops.layout import Geometry
from mpkernels.triton.gate_parameter_grads import add_parts
from mpkernels.triton.launch import Tile, combine_samples, is_long, next_power_of_2, on_device_of
from mpkernels.triton.launch_arguments import triton_dtype
from mpkernels.triton.launching import launched
from mpkernels.triton.sums import end_of, span_of, spans_of

_GATES = 64  # that a program adds tiles of
_VALUES = 1024  # that a program adds at a time: 8 for each of 128 threads


@triton.jit
def kept(value, present, ALL: tl.constexpr):
    """The value, or 0 for an output without a gradient: a product with 0 could be NaN."""
    return value if ALL else tl.where(present, value, 0.0)


@triton.jit(do_not_specialize=["batch", "programs"])
def _combine_sums_kernel(
    sums, products, parts, gates, scale, grad_bias, grad_scale, grad_shift, grad_gates,
    batch, programs, batch_stride, input_stride, output_stride,
    PRESENT: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS: tl.constexpr,
    ALONG: tl.constexpr, TILES: tl.constexpr, SAMPLES: tl.constexpr,
    LONG: tl.constexpr, MANY: tl.constexpr,
    BLOCK_ALONG: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    BLOCK_TILES: tl.constexpr, BLOCK_GATES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """db_ij = scale_j sum_b g_ij sum_s D_j, dshift_j = sum_bs D_j, dscale_j = sum_bs D_j T_j.

    One of the first `programs` programs owns one part of the batch and a block of channels of one
    output; part t of a gradient is stored t times its size further on. Each of the others adds the
    tiles of the gates of some samples. All sums have a fixed order.
    """
    CHANNEL_BLOCKS: tl.constexpr = tl.cdiv(CHANNELS, BLOCK_CHANNELS)
    ALL: tl.constexpr = PRESENT == (1 << OUTPUTS) - 1
    if tl.program_id(0) < programs:
        j = tl.program_id(0) // CHANNEL_BLOCKS % OUTPUTS
        part = tl.program_id(0) // CHANNEL_BLOCKS // OUTPUTS
        c = tl.program_id(0) % CHANNEL_BLOCKS * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
        earlier = part.to(tl.int64) * SAMPLES  # samples
        size = tl.minimum(batch - part * SAMPLES, SAMPLES) * ALONG
        dshift, dscale = (tl.zeros([BLOCK_CHANNELS], ACC),) * 2
        dbias = ()
        for _i in tl.static_range(INPUTS):
            dbias = dbias + (tl.zeros([BLOCK_CHANNELS], ACC),)
        span = span_of(size, BLOCK_ALONG, LONG)
        for first in range(0, spans_of(size, LONG), span):
            of_shift, of_scale = (tl.zeros([BLOCK_ALONG, BLOCK_CHANNELS], ACC),) * 2
            of_bias = ()
            for _i in tl.static_range(INPUTS):
                of_bias = of_bias + (tl.zeros([BLOCK_ALONG, BLOCK_CHANNELS], ACC),)
            for t0 in range(first, end_of(first, span, size, LONG), BLOCK_ALONG):
                t = t0 + tl.arange(0, BLOCK_ALONG)
                inside = (t < size)[:, None] & (c < CHANNELS)[None, :]
                at = ((earlier * ALONG + t)[:, None] * OUTPUTS + j) * CHANNELS + c[None, :]
                if products is not None:
                    of_scale += tl.load(products + at, mask=inside, other=0.0)
                if sums is not None:
                    d = tl.load(sums + at, mask=inside, other=0.0)
                    of_shift += d
                    if grad_bias is not None:
                        grown = ()
                        of_sample = gates + (earlier + t // ALONG) * batch_stride
                        for i in tl.static_range(INPUTS):
                            of_gate = of_sample + i * input_stride + j * output_stride
                            g = tl.load(of_gate, mask=t < size, other=0.0).to(ACC)
                            grown = grown + (of_bias[i] + g[:, None] * d,)
                        of_bias = grown
            if grad_shift is not None:
                dshift += tl.sum(of_shift, 0)
            if grad_scale is not None:
                dscale += tl.sum(of_scale, 0)
            if grad_bias is not None:
                added = ()
                for i in tl.static_range(INPUTS):
                    added = added + (dbias[i] + tl.sum(of_bias[i], 0),)
                dbias = added
        to = (part.to(tl.int64) * OUTPUTS + j) * CHANNELS + c
        if grad_shift is not None:
            tl.store(grad_shift + to, dshift.to(grad_shift.dtype.element_ty), mask=c < CHANNELS)
        if grad_scale is not None:
            tl.store(grad_scale + to, dscale.to(grad_scale.dtype.element_ty), mask=c < CHANNELS)
        if grad_bias is not None:
            by = 1.0
            if scale is not None:
                by = tl.load(scale + j * CHANNELS + c, mask=c < CHANNELS, other=0.0).to(ACC)
            for i in tl.static_range(INPUTS):
                db = kept(dbias[i] * by, ((PRESENT >> j) & 1) != 0, ALL)
                to = ((part.to(tl.int64) * INPUTS + i) * OUTPUTS + j) * CHANNELS + c
                tl.store(grad_bias + to, db.to(grad_bias.dtype.element_ty), mask=c < CHANNELS)
    elif grad_gates is not None:
        begin = (tl.program_id(0) - programs).to(tl.int64) * BLOCK_GATES
        q = begin + tl.arange(0, BLOCK_GATES)
        of_gates = q < batch * (INPUTS * OUTPUTS)
        sample, gate = q // (INPUTS * OUTPUTS), q % (INPUTS * OUTPUTS)
        whole = tl.zeros([BLOCK_GATES], ACC)
        tiles = span_of(TILES, BLOCK_TILES, MANY)
        for first in range(0, spans_of(TILES, MANY), tiles):
            total = tl.zeros([BLOCK_TILES, BLOCK_GATES], ACC)
            for t0 in range(first, end_of(first, tiles, TILES, MANY), BLOCK_TILES):
                t = t0 + tl.arange(0, BLOCK_TILES)[:, None]
                at = (sample[None, :] * TILES + t) * (INPUTS * OUTPUTS) + gate[None, :]
                total += tl.load(parts + at, mask=(t < TILES) & of_gates[None, :], other=0.0)
            whole += tl.sum(total, 0)
        tl.store(grad_gates + q, whole.to(grad_gates.dtype.element_ty), mask=of_gates)


class TilePartials(NamedTuple):
    """What the tiles of a backward leave for the gradients of gates and parameters."""

    gates: Tensor | None  # [B, tiles, m, n]: with one tile a sample, the gradient itself
    sums: Tensor | None  # [B, along, n, C']: sum_s D_j of a tile
    products: Tensor | None  # the same of D_j T_j
    tiles: int  # of an output of a sample
    along: int  # of them along the positions


def allocate_partials(
    u: Tensor, gates: Tensor, grads: list[Tensor | None], one: Geometry, tile: Tile
) -> TilePartials:
    """Allocates it, for the gradients that are wanted."""
    grad_gates, grad_bias, grad_scale, grad_shift = grads
    rows, cols = tile.counts(one)
    tiles, along = rows * cols, rows if one.channels_last else cols
    dtype = accumulate_dtype(u.dtype)

    def new(*shape: int) -> Tensor:
        return u.new_empty((one.batch, *shape), dtype=dtype)

    of_gates = new(tiles, *gates.shape[1:]) if grad_gates is not None and tiles > 1 else grad_gates
    of_channels = along, gates.shape[2], one.channels
    summed = grad_bias is not None or grad_shift is not None
    sums = new(*of_channels) if summed else None
    products = None if grad_scale is None else new(*of_channels)
    return TilePartials(of_gates, sums, products, tiles, along)


def add_tiles(
    partials: TilePartials,
    gates: Tensor,
    scale: Tensor | None,
    grads: list[Tensor | None],
    one: Geometry,
    present: int,
) -> None:
    """Adds what tiles left: the parameters' gradients, and the gates' where samples have several.

    Launches once if anything is left, once more where the batch has several parts.
    """
    grad_gates, *of_parameters = grads
    written = [grad for grad in of_parameters if grad is not None]
    of_gates = partials.gates is not None and partials.tiles > 1
    if not (written or of_gates):
        return
    inputs, outputs = gates.shape[1:]
    samples = combine_samples(partials.along)
    count = -(-one.batch // samples) if written else 1
    parts, like = of_parameters, partials.gates
    if written:
        like = partials.sums if partials.products is None else partials.products
    assert like is not None
    if count > 1:
        parts = [None if p is None else like.new_empty((count, *p.shape)) for p in of_parameters]
    block_channels = min(next_power_of_2(one.channels), 16)
    block_along = _VALUES // block_channels
    block_tiles = min(next_power_of_2(partials.tiles), _VALUES // _GATES)
    programs = count * outputs * -(-one.channels // block_channels) if written else 0
    gate_programs = -(-gates.numel() // _GATES) if of_gates else 0
    with on_device_of(gates):
        launched(_combine_sums_kernel, (programs + gate_programs,))(
            partials.sums,
            partials.products,
            partials.gates if of_gates else None,
            gates,
            scale,
            *parts,
            grad_gates if of_gates else None,
            one.batch,
            programs,
            *gates.stride(),
            PRESENT=present,
            INPUTS=inputs,
            OUTPUTS=outputs,
            CHANNELS=one.channels,
            ALONG=partials.along,
            TILES=partials.tiles,
            SAMPLES=samples,
            LONG=is_long(-(-samples * partials.along // block_along)),
            MANY=is_long(-(-partials.tiles // block_tiles)),
            BLOCK_ALONG=block_along,
            BLOCK_CHANNELS=block_channels,
            BLOCK_TILES=block_tiles,
            BLOCK_GATES=_GATES,
            ACC=triton_dtype(like),
            num_warps=4,
        )
        if count > 1:
            add_parts([part for part in parts if part is not None], written)
