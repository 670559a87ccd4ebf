"""DTensors: each process runs the operator on its part of the batch.

This happens above the operator: PyTorch's conversions to and from local tensors carry gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpkernels.ops.batching import OF_SAMPLES, samples_of
from mpkernels.ops.form import PLAIN


def is_distributed(flat: Sequence[Any]) -> bool:
    """Whether any of the tensors is a DTensor."""
    return not PLAIN.issuperset(map(type, flat)) and any(_is_one(t) for t in flat)


def _is_one(t: Any) -> bool:
    return type(t).__name__ == "DTensor"  # its module is imported where there are some


def run_locally(
    operator: str,
    names: Sequence[str],
    flat: Sequence[Any],
    call: Callable[[list[Any]], Sequence[Tensor]],
) -> list[Tensor]:
    """The operator's results as DTensors, placed as the samples are.

    Args:
        operator: its name.
        names: of the arguments to which the flat tensors belong.
        flat: the tensors; samples replicated or split over the batch, parameters replicated.
        call: local flat tensors -> local results.

    Raises:
        NotImplementedError: a tensor is placed in another way, or only some are DTensors.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    def refuse(name: str, why: str) -> NotImplementedError:
        return NotImplementedError(f"{operator}: {name} {why}")

    mesh = next(t.device_mesh for t in flat if _is_one(t))
    of_parameters = (Replicate(),) * mesh.ndim
    placements = [t.placements for n, t in zip(names, flat) if n in OF_SAMPLES and _is_one(t)]
    # Those of the first that is split: each process takes its part of the others.
    of_samples = next((p for p in placements if p != of_parameters), of_parameters)
    # Each process has the gradient of its samples; a parameter's is the sum of them.
    of_grads = tuple(Partial() if p == Shard(0) else p for p in of_samples)
    local: list[Any] = []
    for name, t in zip(names, flat):
        own, grads = (of_samples,) * 2 if name in OF_SAMPLES else (of_parameters, of_grads)
        if t is None:
            local.append(None)
            continue
        if not isinstance(t, DTensor) or t.device_mesh != mesh:
            raise refuse(name, "must be a DTensor on the mesh of all others")
        if name in OF_SAMPLES and any(p not in (Shard(0), Replicate()) for p in t.placements):
            raise refuse(name, f"must be replicated or split over the batch, got {t.placements}")
        if t.placements == of_parameters:
            t = t.redistribute(placements=own)
        if t.placements != own:
            raise refuse(name, f"must be placed as {own}, got {t.placements}")
        local.append(t.to_local(grad_placements=grads))

    results = call(local)
    distributed: list[Tensor] = []
    for place, y in enumerate(results, 1):
        at = samples_of(operator, "", place == len(results))
        own = tuple(Shard(at) if p == Shard(0) else p for p in of_samples)
        shape, stride = _whole(y, at, flat[0].shape[0])
        distributed.append(
            DTensor.from_local(y, mesh, own, run_check=False, shape=shape, stride=stride)
        )
    return distributed


def _whole(y: Tensor, at: int, batch: int) -> tuple[torch.Size, tuple[int, ...]]:
    """Shape and strides of a result with all samples: processes may have different numbers."""
    shape = torch.Size([batch if d == at else size for d, size in enumerate(y.shape)])
    here, each = max(y.shape[at], 1), y.stride(at)
    return shape, tuple(s // here * batch if s > each else s for s in y.stride())
