"""Where a loss or a gradient stopped being finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mpkernels import eager

# The fused routers are subclasses of these.
ROUTERS = (
    eager.CrossConnect, eager.CrossStitch, eager.CrossPredictConv2d, eager.CrossPredictLinear,
)  # fmt: skip


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, DTensor):
        return [value.to_local()]  # checking the whole would wait for other processes
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for part in value for t in _tensors(part)]
    return []


def _finite(value: Any) -> bool:
    return all(bool(t.isfinite().all()) for t in _tensors(value) if t.is_floating_point())


class _Watch:
    """Records the first layer output, and the first gradient of one, that is not finite."""

    def __init__(self) -> None:
        self.forward: str | None = None
        self.backward: str | None = None
        self.router = "none"

    def hook(self, name: str) -> Any:
        """The forward hook of the layer `name`."""

        def see(module: nn.Module, inputs: Any, output: Any) -> None:
            layer = f"{type(module).__name__} {name}"
            if self.forward is None and not _finite(output):
                self.forward = (
                    f"{layer} is the first that is not finite, "
                    f"the last router before it {self.router}"
                )
            if isinstance(module, ROUTERS):
                self.router = layer
            for tensor in _tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._see_gradient, layer, module))

        return see

    def _see_gradient(self, layer: str, module: nn.Module, gradient: Tensor) -> None:
        if self.backward is None and not _finite(gradient):
            self.backward = (
                f"{layer} is the first, from the loss back, whose gradient is not finite, "
                f"the last router behind it {self.router}"
            )
        if isinstance(module, ROUTERS):
            self.router = layer


def broken(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors that are not finite."""
    return [name for name, value in named if not _finite(value)]


def culprit(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> str | None:
    """Runs a batch again, forward and backward, and names the first place that is not finite.

    All processes must call it together, since the backward pass of sharded weights needs them all.

    Args:
        model: the network, in the mode in which it failed.
        x: the images.
        loss: runs the network on images and returns the loss, a scalar.

    Returns:
        a clause that names the images, a parameter, or a layer's output or gradient with the last
        router that ran before; None if everything is finite.
    """
    watch = _Watch()
    hooks = [
        module.register_forward_hook(watch.hook(name))
        for name, module in model.named_modules()
        if not list(module.children()) or isinstance(module, ROUTERS)
    ]
    parameters = broken(model.named_parameters())
    try:
        value = loss(x)
        watch.router = "none"
        if value.requires_grad:
            value.backward()
    finally:
        for hook in hooks:
            hook.remove()
    if not _finite(x):
        return "the images hold values that are not finite"
    if parameters:
        return f"the parameter {parameters[0]} is not finite since the last update"
    return watch.forward or watch.backward
