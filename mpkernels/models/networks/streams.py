"""Paths side by side: while a CUDA graph is captured, each runs on a stream of its own.

One path's convolution of small maps leaves most of a large GPU idle. Outside a graph nothing is
gained: the host launches kernels more slowly than a GPU runs small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

Layer = Callable[[Tensor], Tensor]


@cache
def _streams(current: torch.cuda.Stream, count: int) -> list[torch.cuda.Stream]:
    """Streams for paths beside this one: two captures at the same time share none."""
    return [torch.cuda.Stream(current.device) for _ in range(count)]


def streams_beside(xs: Sequence[Tensor]) -> list[torch.cuda.Stream]:
    """Streams for all paths but the first while a graph is captured; else none."""
    # torch.fx gives proxies.
    if len(xs) < 2 or torch.compiler.is_compiling() or not isinstance(xs[0], Tensor):
        return []
    device = xs[0].device
    if not xs[0].is_cuda or not torch.cuda.is_initialized() or any(x.device != device for x in xs):
        return []
    # Asked for whenever paths run, and so before a capture, which must not make torch's streams.
    streams = _streams(torch.cuda.current_stream(device), len(xs) - 1)
    with torch.cuda.device(device):
        return streams if torch.cuda.is_current_stream_capturing() else []


def side_by_side(
    layers: Sequence[Layer], xs: Sequence[Tensor], beside: Sequence[torch.cuda.Stream]
) -> list[Tensor]:
    """Sends path i through layer i, the first on the current stream and the others beside it.

    They begin behind what the current stream has, and it goes on behind all of them. Autograd runs
    each layer's backward on the stream of its forward, and orders what it hands from one stream to
    the other. A tensor read on another stream than it was allocated on is recorded there: its
    memory is not used again before that stream has read it.
    """
    current = torch.cuda.current_stream(xs[0].device)
    for stream in beside:
        stream.wait_stream(current)
    ys = []
    for layer, x, stream in zip(layers, xs, [current, *beside]):
        x.record_stream(stream)
        with torch.cuda.stream(stream):
            ys.append(layer(x))
    for stream, y in zip(beside, ys[1:]):
        current.wait_stream(stream)
        y.record_stream(current)
    return ys
