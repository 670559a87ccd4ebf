"""Where a loss stopped being finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import mpkernels
from mpkernels import eager

ROUTERS = (
    eager.CrossConnect, eager.CrossStitch, eager.CrossPredictConv2d, eager.CrossPredictLinear,
    mpkernels.CrossConnect, mpkernels.CrossStitch,
)  # fmt: skip


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for part in value for t in _tensors(part)]
    return []


def _finite(value: Any) -> bool:
    return all(bool(t.isfinite().all()) for t in _tensors(value) if t.is_floating_point())


def culprit(model: nn.Module, x: Tensor) -> str:
    """Runs a batch again and names the first place that is not finite.

    Args:
        model: the network, in the mode in which it failed.
        x: the images.

    Returns:
        one clause: the images, a parameter, a layer, or that all of it is finite up to the loss;
        of a layer also the last router before it.
    """
    if not _finite(x):
        return "the images hold values that are not finite"
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"the parameter {name} is not finite since the last update"
    found: list[str] = []
    router = ["none"]

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            kind = type(module).__name__
            if not found and not _finite(output):
                found.append(f"{kind} {name} is the first that is not finite, "
                             f"the last router before it {router[0]}")  # fmt: skip
            if isinstance(module, ROUTERS):
                router[0] = f"{kind} {name}"

        return hook

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if not list(module.children()) or isinstance(module, ROUTERS)
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "all layers are finite: the loss itself is not"
