"""Layers that networks of several paths share. Paths are lists of tensors, never one stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType

import torch
from torch import Tensor, nn

import mpkernels

Paths = list[Tensor]


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution 3x3 that keeps the size, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def dense(inputs: int, outputs: int) -> nn.Sequential:
    """Dense layer, batch norm, ReLU."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True))


class Parallel(nn.ModuleList):
    """One layer of its own for each path."""

    def __init__(self, paths: int, layer: Callable[[], nn.Module]) -> None:
        super().__init__(layer() for _ in range(paths))

    def forward(self, xs: Paths) -> Paths:
        """Path i through layer i."""
        return [layer(x) for layer, x in zip(self, xs)]


class Routed(nn.Module):
    """Segments of parallel layers, each behind a router; the outputs of all paths are averaged.

    Args:
        stages: pairs of a router and the `Parallel` that follows it.
        channels_last: convert the input, and with it every map, to channels_last.
    """

    def __init__(
        self, stages: Iterable[tuple[nn.Module, Parallel]], channels_last: bool = False
    ) -> None:
        super().__init__()
        pairs = list(stages)
        self.routers = nn.ModuleList(router for router, _ in pairs)
        self.segments = nn.ModuleList(segment for _, segment in pairs)
        self.channels_last = channels_last
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, x: Tensor, return_gates: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Classifies images.

        Args:
            x: [B, C, H, W].
            return_gates: also return the gates of each router, [B, m, n], in order.

        Returns:
            logits [B, num_classes]; or (logits, gates).
        """
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        xs, all_gates = [x], []
        for router, segment in zip(self.routers, self.segments):
            xs, gates = router(xs, return_gates=True)
            all_gates.append(gates)
            xs = segment(xs)
        logits = average(xs)
        return (logits, all_gates) if return_gates else logits


def average(xs: Paths) -> Tensor:
    """The mean of the paths' outputs; logits, not probabilities."""
    return torch.stack(xs).mean(0)


def router_kind(routers: str) -> ModuleType:
    """The module that holds the routers of a kind: "fused" or "eager".

    Raises:
        ValueError: it is neither.
    """
    kinds: dict[str, ModuleType] = {"fused": mpkernels, "eager": mpkernels.eager}
    if routers not in kinds:
        raise ValueError(f'routers must be "fused" or "eager", got {routers!r}')
    return kinds[routers]
