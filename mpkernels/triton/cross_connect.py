"""cross_connect: chooses a method by `cross_connect_launch` and launches its kernels.

`tune` may have found that the CUDA C++ library, which keeps samples in shared memory, is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mpkernels.ops.flags import flags_of
from mpkernels.ops.layout import Geometry
from mpkernels.ops.onchip import OnChip, run_on
from mpkernels.triton.gate_mlp import Gate, as_gate
from mpkernels.triton.gate_parameter_grads import parameter_gradients
from mpkernels.triton.launch import (
    Resident,
    Walk,
    chunk_constants,
    next_power_of_2,
    on_device_of,
    overlaps,
)
from mpkernels.triton.launch_arguments import (
    Arguments,
    contiguous,
    finished,
    geometry_like,
    new_maps,
    reading,
    rows_of,
    writing,
)
from mpkernels.triton.launching import forget_plans, launched
from mpkernels.triton.resident import resident_backward_kernel, resident_kernel
from mpkernels.triton.split import (
    split_dot_kernel,
    split_grad_kernel,
    split_mix_kernel,
    split_pool_kernel,
)
from mpkernels.triton.streamed import streamed_backward_kernel, streamed_kernel
from mpkernels.triton.tuned import launch_for

_launch_of: Callable[..., Resident | OnChip | Walk] = launch_for


@contextmanager
def forced(launch: Resident | OnChip | Walk) -> Iterator[None]:
    """Every router takes this launch."""
    global _launch_of
    previous, _launch_of = _launch_of, lambda *sizes: launch
    forget_plans()
    try:
        yield
    finally:
        _launch_of = previous
        forget_plans()


@lru_cache(maxsize=4096)
def _constants(
    geometry: Geometry, launch: Resident | Walk, inputs: int, outputs: int, hidden: int
) -> dict[str, Any]:
    common = {
        "INPUTS": inputs,
        "OUTPUTS": outputs,
        "HIDDEN": hidden,
        "CHANNELS_LAST": geometry.channels_last,
        "BLOCK_HIDDEN": next_power_of_2(hidden),
        "BLOCK_INPUTS": next_power_of_2(inputs),
    }
    if isinstance(launch, Resident):
        return common | {
            "CHANNELS": geometry.channels,
            "POSITIONS": geometry.positions,
            "BLOCK_ROWS": launch.rows,
            "BLOCK_COLS": launch.cols,
            "num_warps": launch.num_warps,
        }
    return common | chunk_constants(launch.chunks, inputs, hidden)


def _groups(batch: int, launch: Walk) -> list[tuple[int, int]]:
    """First sample and grid of each group of samples that L2 holds together."""
    size, count = launch.samples, launch.chunks.count
    return [(first, min(size, batch - first) * count) for first in range(0, batch, size)]


def _only(constants: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in constants.items() if name not in names}


def _walk(
    launch: Walk,
    geometry: Geometry,
    constants: dict[str, Any],
    xs: Arguments,
    ys: Arguments,
    gate: Gate,
    gates: Tensor,
    pooled: Tensor,
) -> None:
    batch, inputs, channels = pooled.shape
    chunks = launch.chunks.count
    rows = rows_of(geometry, xs, ys)
    partial = pooled.new_empty((batch, inputs, chunks, constants["HIDDEN"]))
    sizes = (channels, geometry.positions, chunks)
    if launch.method == "streamed":
        launched(streamed_kernel, (min(batch, launch.samples),))(
            *xs, *ys, gate, gates, pooled, partial, batch, *sizes,
            DENSE=rows.dense, WIDE=rows.wide, UNIT=rows.unit, **constants,
        )  # fmt: skip
        return
    of_pool = _only(constants, "OUTPUTS", "BLOCK_INPUTS", "BLOCK_WALK", "BLOCK_CHUNKS", "MANY")
    of_mix = _only(constants, "BLOCK_POSITIONS", "LONG")
    for first, grid in _groups(batch, launch):
        launched(split_pool_kernel, (grid,))(
            *xs, gate, pooled, partial, first, *sizes, WIDE=rows.wide, UNIT=rows.unit, **of_pool
        )
        launched(split_mix_kernel, (grid,))(
            *xs,
            *ys,
            gate,
            gates,
            partial,
            first,
            *sizes,
            DENSE=rows.dense,
            WIDE=rows.wide,
            **of_mix,
        )


def cross_connect(xs: list[Tensor], gate: Sequence[Tensor | None], kind: int) -> list[Tensor]:
    """ys, gates [B, m, n] and pooled [B, m, C]; one launch unless the samples are split."""
    x, parameters = xs[0], as_gate(gate, kind)
    geometry, dtype = geometry_like(x), x.dtype
    m, n, units = parameters.sizes
    launch = _launch_of(geometry, m, n, units, dtype.itemsize, x.device)
    if isinstance(launch, OnChip) and geometry.batch > 0:
        operator = torch.ops.mpkernels.cross_connect_cuda
        return run_on(x.device, operator, xs, gate, kind, launch.cluster)  # type: ignore[no-any-return]
    accumulate = torch.float64 if dtype == torch.float64 else torch.float32
    maps = new_maps([x] * n)
    gates = x.new_empty((geometry.batch, m, n), dtype=accumulate)
    pooled = x.new_empty((geometry.batch, m, geometry.channels), dtype=accumulate)
    if geometry.batch == 0:
        return [*finished(maps, (tuple(maps), (), ())), gates, pooled]  # type: ignore[arg-type]
    assert not isinstance(launch, OnChip)
    inputs, outputs = reading(xs, geometry, x), writing(maps, geometry, x)
    constants = _constants(geometry, launch, m, n, units)
    with on_device_of(x):
        if isinstance(launch, Resident):
            rows = rows_of(geometry, inputs, outputs)
            launched(resident_kernel, (geometry.batch,))(
                *inputs,
                *outputs,
                parameters,
                gates,
                pooled,
                DENSE=rows.dense,
                WIDE=rows.wide,
                **constants,
            )
        else:
            _walk(launch, geometry, constants, inputs, outputs, parameters, gates, pooled)
    return [*finished(maps, outputs), gates, pooled]


def _walk_backward(
    launch: Walk,
    geometry: Geometry,
    constants: dict[str, Any],
    masks: dict[str, Any],
    outer: Arguments,
    inputs: Arguments,
    grads: Arguments,
    saved: list[Any],
    gate_grads: list[Tensor],
) -> None:
    grad_gates, gates, pooled, gate = saved
    batch, m, channels = pooled.shape
    n, units = constants["OUTPUTS"], constants["HIDDEN"]
    chunks = launch.chunks.count
    rows = rows_of(geometry, outer, inputs, grads)
    dots = pooled.new_empty((batch, chunks, m, n))
    partial = pooled.new_empty((batch, m, chunks, units))
    grad_pooled = pooled.new_empty(pooled.shape)
    sizes = (channels, geometry.positions, chunks)
    if launch.method == "streamed":
        launched(streamed_backward_kernel, (min(batch, launch.samples),))(
            *outer, *inputs, *grads, grad_gates, gates, pooled, gate, *gate_grads,
            dots, partial, grad_pooled, batch, *sizes,
            DENSE=rows.dense, WIDE=rows.wide, UNIT=rows.unit,
            **masks, **_only(constants, "BLOCK_POSITIONS"),
        )  # fmt: skip
        return
    of_dot = _only(constants, "BLOCK_POSITIONS", "BLOCK_CHUNKS", "MANY")
    of_grad = _only(constants, "BLOCK_POSITIONS", "LONG")
    for first, grid in _groups(batch, launch):
        launched(split_dot_kernel, (grid,))(
            *outer, *inputs, pooled, gate, dots, partial, first, *sizes,
            DENSE=rows.dense, WIDE=rows.wide, PRESENT=masks["PRESENT"], **of_dot,
        )  # fmt: skip
        launched(split_grad_kernel, (grid,))(
            *outer, *grads, grad_gates, gates, gate, *gate_grads,
            dots, partial, grad_pooled, first, *sizes,
            DENSE=rows.dense, WIDE=rows.wide, UNIT=rows.unit, **masks, **of_grad,
        )  # fmt: skip


def cross_connect_backward(
    grads: list[Tensor | None],
    kept: list[Tensor],
    xs: list[Tensor],
    gate: Sequence[Tensor | None],
    kind: int,
    wanted: int,
) -> list[Tensor]:
    """Launches as the forward does, and once more where parameters want gradients."""
    x, parameters = xs[0], as_gate(gate, kind)
    (*grad_ys, grad_gates), (gates, pooled) = grads, kept
    geometry, flags = geometry_like(x), flags_of(wanted, len(xs) + len(gate))
    batch, (m, n, units) = geometry.batch, parameters.sizes
    launch = _launch_of(geometry, m, n, units, x.dtype.itemsize, x.device, True)
    if isinstance(launch, OnChip) and batch > 0:
        operator = torch.ops.mpkernels.cross_connect_backward_cuda
        rest = xs, gate, kind, wanted, launch.cluster
        return run_on(x.device, operator, grads, kept, *rest)  # type: ignore[no-any-return]
    maps = new_maps([x if w else None for x, w in zip(xs, flags)])
    grad_logits = pooled.new_empty((batch, m, n))
    grad_hidden, hidden = (pooled.new_empty((batch, m, units)) for _ in range(2))
    outer, inputs = reading(grad_ys, geometry, x), reading(xs, geometry, x)
    grad_xs = writing(maps, geometry, x)
    if batch > 0:
        assert not isinstance(launch, OnChip)
        constants = _constants(geometry, launch, m, n, units)
        masks = {
            "PRESENT": sum(1 << j for j, grad in enumerate(grad_ys) if grad is not None),
            "WANTED": sum(1 << i for i, w in enumerate(flags[:m]) if w),
            "PARAMETERS": any(flags[m:]),
            "OVERLAP": any(flags[m:]) and overlaps(x.device),
        }
        saved = [*contiguous(grad_gates, gates, pooled), parameters]
        scratch = [grad_logits, grad_hidden, hidden]
        with on_device_of(x):
            if isinstance(launch, Resident):
                rows = rows_of(geometry, outer, inputs, grad_xs)
                launched(resident_backward_kernel, (batch,))(
                    *outer,
                    *inputs,
                    *grad_xs,
                    *saved,
                    *scratch,
                    DENSE=rows.dense,
                    WIDE=rows.wide,
                    **masks,
                    **constants,
                )
            else:
                _walk_backward(
                    launch, geometry, constants, masks, outer, inputs, grad_xs, saved, scratch
                )
    pooled = pooled.contiguous()
    of_parameters = parameter_gradients(grad_logits, grad_hidden, hidden, pooled, gate, flags[m:])
    return [*finished(maps, grad_xs), *of_parameters]
