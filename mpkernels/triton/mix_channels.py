"""mix's backward where gates are one per channel of a map: d_ijc sums over the positions alone.

A warp walks a span of positions of its own channels and holds their sums in its lanes, so that
warps exchange nothing. Moves (2m + n)|X| and, for spans shorter than a map, the sums they leave.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mpkernels.triton.launch_arguments import Arguments
from mpkernels.triton.launching import launched
from mpkernels.triton.mix_launch import mix_channel_tile
from mpkernels.triton.mix_tiles import Cover, Wanted, gate_strides, pair_at, sums_of, tile_in
from mpkernels.triton.sums import joined


@triton.jit
def _of_threads(product, VECTOR: tl.constexpr):
    """Adds the neighbours that a thread holds of a tile [groups, lines, width]."""
    GROUPS: tl.constexpr = product.shape[0]
    LINES: tl.constexpr = product.shape[1]
    WIDTH: tl.constexpr = product.shape[2]
    if VECTOR == 1:
        return product
    else:
        return tl.sum(product.reshape(GROUPS, LINES, WIDTH // VECTOR, VECTOR), 3)


@triton.jit
def _mix_channels_backward_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    grad_xs, grad_x_batch_strides, grad_x_row_strides, gates, sums,
    batch_stride, input_stride, output_stride, channel_stride,
    PRESENT: tl.constexpr, WANTED: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr, DENSE: tl.constexpr, SPAN: tl.constexpr, GROUPS: tl.constexpr,
    LINES: tl.constexpr, WIDTH: tl.constexpr, VECTOR: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One program owns a span of positions of a block of channels: each element is loaded once.

    It stores to `sums` its part of the gates' gradients, [samples, spans, m, n, C]. PRESENT and
    WANTED are bit masks: outputs that have a gradient, X_i that want one.
    """
    BLOCK: tl.constexpr = GROUPS * WIDTH if CHANNELS_LAST else GROUPS
    ROWS: tl.constexpr = POSITIONS if CHANNELS_LAST else CHANNELS
    COLS: tl.constexpr = CHANNELS if CHANNELS_LAST else POSITIONS
    STEP: tl.constexpr = LINES if CHANNELS_LAST else WIDTH
    BLOCKS: tl.constexpr = tl.cdiv(CHANNELS, BLOCK)
    SPANS: tl.constexpr = tl.cdiv(POSITIONS, SPAN)
    GATES: tl.constexpr = INPUTS * OUTPUTS
    c0 = tl.program_id(0) % BLOCKS * BLOCK
    span = tl.program_id(0) // BLOCKS % SPANS
    if POSITIONS > 2**30:
        span = span.to(tl.int64)
    sample = (tl.program_id(0) // BLOCKS // SPANS).to(tl.int64)
    group = tl.arange(0, GROUPS)[:, None, None]
    line = tl.arange(0, LINES)[None, :, None]
    place = tl.arange(0, WIDTH)[None, None, :]
    c = c0 + (group * WIDTH + place if CHANNELS_LAST else group)
    at_gate = gates + sample * batch_stride + c.to(tl.int64) * channel_stride
    # A thread of NCHW has gates of few channels, so it can keep them.
    EARLY: tl.constexpr = GATES <= 32 and not CHANNELS_LAST
    dots, weights = (), ()
    for gate in tl.static_range(GATES):
        if EARLY:
            of_gate = pair_at(at_gate, gate // OUTPUTS, gate % OUTPUTS, input_stride, output_stride)
            weights = weights + (tl.load(of_gate, mask=c < CHANNELS, other=0.0).to(ACC),)
        dots = dots + (tl.zeros([GROUPS, LINES, WIDTH // VECTOR], ACC),)
    for s0 in range(span * SPAN, tl.minimum(span * SPAN + SPAN, POSITIONS), STEP):
        s = s0 + (line if CHANNELS_LAST else place)
        row, col = (s, c) if CHANNELS_LAST else (c, s)
        inside = (row < ROWS) & (col < COLS)
        # All are asked for before the first store, which the compiler lets no load pass.
        grads, tiles = (), ()
        for o in tl.static_range(OUTPUTS):
            if (PRESENT >> o) & 1:
                dy = tile_in(
                    grad_ys, grad_y_batch_strides, grad_y_row_strides, o, sample, row, col,
                    ROWS, COLS, UNIT, DENSE,
                )  # fmt: skip
                grads = grads + (tl.load(dy, mask=inside, other=0.0).to(ACC),)
            else:
                grads = grads + (tl.zeros([GROUPS, LINES, WIDTH], ACC),)
        for i in tl.static_range(INPUTS):
            if sums is not None:
                x = tile_in(
                    xs, x_batch_strides, x_row_strides, i, sample, row, col,
                    ROWS, COLS, UNIT, DENSE,
                )  # fmt: skip
                tiles = tiles + (tl.load(x, mask=inside, other=0.0),)
        grown = ()
        for i in tl.static_range(INPUTS):
            if (WANTED >> i) & 1:
                dx = tl.zeros([GROUPS, LINES, WIDTH], ACC)
                for o in tl.static_range(OUTPUTS):
                    if (PRESENT >> o) & 1:
                        if EARLY:
                            dx += grads[o] * weights[i * OUTPUTS + o]
                        else:
                            of_gate = pair_at(at_gate, i, o, input_stride, output_stride)
                            dx += grads[o] * tl.load(of_gate, mask=c < CHANNELS, other=0.0).to(ACC)
                to = tile_in(
                    grad_xs, grad_x_batch_strides, grad_x_row_strides, i, sample, row, col,
                    ROWS, COLS, UNIT, DENSE,
                )  # fmt: skip
                tl.store(to, dx.to(grad_xs[i].dtype.element_ty), mask=inside)
            if sums is not None:
                for o in tl.static_range(OUTPUTS):
                    if (PRESENT >> o) & 1:
                        part = _of_threads(grads[o] * tiles[i].to(ACC), VECTOR)
                        grown = grown + (dots[i * OUTPUTS + o] + part,)
                    else:
                        grown = grown + (dots[i * OUTPUTS + o],)
        if sums is not None:
            dots = grown
    if sums is not None:
        together = tl.sum(joined(dots), 1 if CHANNELS_LAST else 2)
        together = together.reshape(BLOCK, together.shape[2])
        k = tl.arange(0, together.shape[1])[None, :]
        channel = c0 + tl.arange(0, BLOCK)[:, None]
        at = ((sample * SPANS + span) * GATES + k) * CHANNELS + channel
        own = (k < GATES) & (channel < CHANNELS)
        tl.store(sums + at, together.to(sums.dtype.element_ty), mask=own)


def launch_channels(
    maps: tuple[Arguments, Arguments, Arguments], gates: Tensor, like: Tensor, cover: Cover,
    wanted: Wanted,
) -> Tensor | None:  # fmt: skip
    """Launches once: dX, and what spans leave for the gates' gradients, or these themselves."""
    geometry = cover.geometry
    tile = mix_channel_tile(
        geometry, like.element_size(), gates.shape[1], gates.shape[2], cover.unit
    )
    spans = -(-geometry.positions // tile.span)
    sums = sums_of(wanted, gates, like, spans)
    # Left alone, ptxas spills a few registers where that lets one more block run at a time.
    limit = {} if torch.version.hip else {"maxnreg": 255}
    blocks = -(-geometry.channels // tile.channels(geometry.channels_last))
    launched(_mix_channels_backward_kernel, (geometry.batch * spans * blocks,))(
        *maps[0],
        *maps[1],
        *maps[2],
        gates,
        sums,
        *gate_strides(gates),
        PRESENT=wanted.present,
        WANTED=wanted.paths,
        SPAN=tile.span,
        GROUPS=tile.groups,
        LINES=tile.lines,
        WIDTH=tile.width,
        VECTOR=tile.vector,
        num_warps=tile.num_warps,
        **limit,
        **cover.constants(gates, like),
    )
    return sums
