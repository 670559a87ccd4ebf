"""Which kernels would run for these tensors, what they move, and why not faster ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.availability import why_no_gpu
from mpkernels.eager.cross_prediction import CrossPredict
from mpkernels.explain.choice import autocast_dtype
from mpkernels.explain.combining import explain_combining
from mpkernels.explain.explanation import Explanation
from mpkernels.explain.mixing import explain_mixing


def explain(
    router: torch.nn.Module, xs: Tensor | Sequence[Tensor], device: str | None = None
) -> Explanation:
    """Tells which kernels `router(xs)` would run, without running it.

    Args:
        router: a CrossConnect, CrossStitch, CrossPredictConv2d or CrossPredictLinear, fused or
            eager.
        xs: m maps [B, C, *spatial] or vectors [B, C]; only shapes, strides and dtypes are read,
            so meta and fake tensors work too.
        device: asks about another type of device than that of xs: "cpu" or "cuda".

    Returns:
        The kernel, its launches, the bytes it moves beside the least possible, and why no faster
        kernel would run; of a cross-prediction router those of `combine`, with the gate and the
        convolutions that run before it. `print` it.

    Raises:
        TypeError: the router is none of these, or a dtype does not fit.
        ValueError: a shape does not fit the router; the message names it.

    Example:
        >>> router = CrossConnect(32, inputs=2, outputs=2)
        >>> xs = [torch.randn(8, 32, 16, 16) for _ in range(2)]
        >>> explain(router, xs, device="cuda").forward.floor == (2 + 2) * 4 * 8 * 32 * 16 * 16
        True
    """
    if not isinstance(router, (eager.CrossConnect, eager.CrossStitch, CrossPredict)):
        raise TypeError(
            "explain: router must be a CrossConnect, CrossStitch, CrossPredictConv2d or "
            f"CrossPredictLinear, got {type(router).__name__}"
        )
    paths = eager.modules.as_paths(xs, router)
    router._check_paths(paths)
    device = device or paths[0].device.type
    dtype = autocast_dtype(paths[0], device)
    maps = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") for x in paths]
    if isinstance(router, CrossPredict):
        explanation = explain_combining(router, maps, device, dtype)
    else:
        explanation = explain_mixing(router, maps, device, dtype)
    notes = list(explanation.notes)
    if dtype != paths[0].dtype:
        notes.append(f"autocast first casts every path from {paths[0].dtype} to {dtype}")
    if device == "cuda" and (reason := why_no_gpu()):
        notes.append(f"{reason}: this is what a machine with a GPU would run")
    return replace(explanation, notes=tuple(notes))
