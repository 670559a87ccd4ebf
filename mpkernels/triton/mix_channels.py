"""mix's backward where gates are one per channel of a map: d_ijc sums over the positions alone.

A warp walks a span of positions of its own channels and holds their sums in its lanes, so that
warps exchange nothing. Moves (2m + n)|X| and, for spans shorter than a map, the sums they leave.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from mpkernels.triton.launch import mix_channel_tile
from mpkernels.triton.launch_arguments import Arguments
from mpkernels.triton.mix_tiles import Cover, Wanted, gate_strides, joined, sums_of


@triton.jit
def _offsets(
    sample, c, s, batch_stride, row_stride, CHANNELS_LAST: tl.constexpr, UNIT: tl.constexpr
):
    """Where channels c at positions s lie in a map."""
    row = row_stride // UNIT * UNIT
    start = sample * (batch_stride // UNIT * UNIT)
    if CHANNELS_LAST:
        return start + s.to(tl.int64) * row + c
    else:
        return start + c.to(tl.int64) * row + s


@triton.jit
def _mix_channels_backward_kernel(
    grad_ys, grad_y_batch_strides, grad_y_row_strides, xs, x_batch_strides, x_row_strides,
    grad_xs, grad_x_batch_strides, grad_x_row_strides, gates, sums,
    batch_stride, input_stride, output_stride, channel_stride,
    PRESENT: tl.constexpr, WANTED: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr, SPAN: tl.constexpr, REPEATS: tl.constexpr, GROUPS: tl.constexpr,
    LINES: tl.constexpr, WIDTH: tl.constexpr, VECTOR: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One program owns a span of positions of a block of channels: each element is loaded once.

    It stores to `sums` its part of the gates' gradients, [samples, spans, m, n, C]. PRESENT and
    WANTED are bit masks: outputs that have a gradient, X_i that want one.
    """
    BLOCK: tl.constexpr = GROUPS * WIDTH if CHANNELS_LAST else GROUPS
    STEP: tl.constexpr = REPEATS * LINES if CHANNELS_LAST else REPEATS * WIDTH
    BLOCKS: tl.constexpr = tl.cdiv(CHANNELS, BLOCK)
    SPANS: tl.constexpr = tl.cdiv(POSITIONS, SPAN)
    GATES: tl.constexpr = INPUTS * OUTPUTS
    c0 = tl.program_id(0) % BLOCKS * BLOCK
    span = tl.program_id(0) // BLOCKS % SPANS
    sample = (tl.program_id(0) // BLOCKS // SPANS).to(tl.int64)
    repeat = tl.arange(0, REPEATS)[:, None, None, None]
    group = tl.arange(0, GROUPS)[None, :, None, None]
    line = tl.arange(0, LINES)[None, None, :, None]
    place = tl.arange(0, WIDTH)[None, None, None, :]
    if CHANNELS_LAST:
        c, of_step = c0 + group * WIDTH + place, repeat * LINES + line
    else:
        c, of_step = c0 + group, repeat * WIDTH + place
    at_gate = gates + sample * batch_stride + c.to(tl.int64) * channel_stride
    dots = ()
    for _ in tl.static_range(GATES):
        dots = dots + (tl.zeros([GROUPS, LINES, WIDTH // VECTOR], ACC),)
    for s0 in range(span * SPAN, tl.minimum(span * SPAN + SPAN, POSITIONS), STEP):
        s = s0 + of_step
        inside = (c < CHANNELS) & (s < POSITIONS)
        grads = ()
        for o in tl.static_range(OUTPUTS):
            if (PRESENT >> o) & 1:
                at = _offsets(
                    sample, c, s, grad_y_batch_strides[o], grad_y_row_strides[o],
                    CHANNELS_LAST, UNIT,
                )  # fmt: skip
                grads = grads + (tl.load(grad_ys[o] + at, mask=inside, other=0.0).to(ACC),)
            else:
                grads = grads + (tl.zeros([REPEATS, GROUPS, LINES, WIDTH], ACC),)
        ahead, grown = grads[0], ()
        for step in tl.static_range(INPUTS + 1):
            # The next X_i is asked for before a store, which the compiler lets no load pass.
            x = ahead
            if step < INPUTS and sums is not None:
                at = _offsets(
                    sample, c, s, x_batch_strides[step], x_row_strides[step], CHANNELS_LAST, UNIT
                )
                ahead = tl.load(xs[step] + at, mask=inside, other=0.0).to(ACC)
            if step > 0 and (WANTED >> (step - 1)) & 1:
                dx = tl.zeros([REPEATS, GROUPS, LINES, WIDTH], ACC)
                for o in tl.static_range(OUTPUTS):
                    if (PRESENT >> o) & 1:
                        of_gate = at_gate + (step - 1) * input_stride + o * output_stride
                        g = tl.load(of_gate, mask=c < CHANNELS, other=0.0).to(ACC)
                        dx += grads[o] * g
                at = _offsets(
                    sample, c, s, grad_x_batch_strides[step - 1], grad_x_row_strides[step - 1],
                    CHANNELS_LAST, UNIT,
                )  # fmt: skip
                dx = dx.to(grad_xs[step - 1].dtype.element_ty)
                tl.store(grad_xs[step - 1] + at, dx, mask=inside)
            if step > 0 and sums is not None:
                for o in tl.static_range(OUTPUTS):
                    dot = dots[(step - 1) * OUTPUTS + o]
                    if (PRESENT >> o) & 1:
                        # Within a thread: its neighbours, then its repeats.
                        product = (grads[o] * x).reshape(
                            REPEATS, GROUPS, LINES, WIDTH // VECTOR, VECTOR
                        )
                        dot += tl.sum(tl.sum(product, 4), 0)
                    grown = grown + (dot,)
        if sums is not None:
            dots = grown
    if sums is not None:
        wholes = ()
        for d in tl.static_range(GATES):
            if CHANNELS_LAST:
                wholes = wholes + (tl.sum(dots[d], 1).reshape(BLOCK, 1),)
            else:
                wholes = wholes + (tl.sum(tl.sum(dots[d], 2), 1).reshape(BLOCK, 1),)
        together = tl.sum(joined(wholes), 1)
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
    blocks = -(-geometry.channels // tile.channels(geometry.channels_last))
    _mix_channels_backward_kernel[(geometry.batch * spans * blocks,)](
        *maps[0],
        *maps[1],
        *maps[2],
        gates,
        sums,
        *gate_strides(gates),
        PRESENT=wanted.present,
        WANTED=wanted.paths,
        SPAN=tile.span,
        REPEATS=tile.repeats,
        GROUPS=tile.groups,
        LINES=tile.lines,
        WIDTH=tile.width,
        VECTOR=tile.vector,
        num_warps=tile.num_warps,
        **cover.constants(gates, like),
    )
    return sums
