"""BaseCNN for 32x32 images, with one path, with several, and with routers between them.

C32 C32 P C64 C64 P C128 C128 Flatten F32 F32 F-classes; every convolution and hidden dense layer
is followed by batch norm and ReLU, P is a max pool. Cross-connected networks have a router in
front of each segment; in cross-predicted ones (CP) routers take the place of the first, third
and fifth convolution and of the second hidden dense layer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models._registry import register
from models.layers import Parallel, Routed, average, conv, dense, router_kind

Segment = Callable[[], nn.Module]


def _segments(in_channels: int, classes: int) -> list[Segment]:
    """One path of the network, cut where routers go."""
    return [
        lambda: nn.Sequential(conv(in_channels, 32), conv(32, 32), nn.MaxPool2d(2)),
        lambda: nn.Sequential(conv(32, 64), conv(64, 64), nn.MaxPool2d(2)),
        lambda: nn.Sequential(conv(64, 128), conv(128, 128)),
        lambda: nn.Sequential(nn.Flatten(), dense(128 * 8 * 8, 32)),
        lambda: nn.Sequential(dense(32, 32), nn.Linear(32, classes)),
    ]


def _widths(in_channels: int) -> list[int]:
    """Channels of the maps that arrive at each router."""
    return [in_channels, 32, 64, 128, 32]


class BaseCNN(nn.Module):
    """Paths that never meet before their logits are averaged; one path is the plain network."""

    def __init__(self, paths: int, in_channels: int, classes: int, channels_last: bool) -> None:
        super().__init__()

        def path() -> nn.Module:
            return nn.Sequential(*(segment() for segment in _segments(in_channels, classes)))

        self.paths = Parallel(paths, path)
        self.channels_last = channels_last
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, x: Tensor, return_gates: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Classifies images [B, C, 32, 32]; there are no routers, so the list of gates is empty."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        logits = average(self.paths([x] * len(self.paths)))
        return (logits, []) if return_gates else logits


def _cross_connected(
    paths: int, in_channels: int, classes: int, routers: str, channels_last: bool
) -> Routed:
    kind = router_kind(routers)
    stages = []
    for at, segment in enumerate(_segments(in_channels, classes)):
        router = kind.CrossConnect(_widths(in_channels)[at], 1 if at == 0 else paths, paths)
        stages.append((router, Parallel(paths, segment)))
    return Routed(stages, channels_last)


@register
def basecnn(classes: int = 10, in_channels: int = 3, channels_last: bool = False) -> nn.Module:
    """One path."""
    return BaseCNN(1, in_channels, classes, channels_last)


@register
def basecnn_3(classes: int = 10, in_channels: int = 3, channels_last: bool = False) -> nn.Module:
    """Three paths without routers, trained jointly."""
    return BaseCNN(3, in_channels, classes, channels_last)


@register
def basecnn_2_cc(
    classes: int = 10, in_channels: int = 3, routers: str = "fused", channels_last: bool = False
) -> nn.Module:
    """Two cross-connected paths."""
    return _cross_connected(2, in_channels, classes, routers, channels_last)


@register
def basecnn_3_cc(
    classes: int = 10, in_channels: int = 3, routers: str = "fused", channels_last: bool = False
) -> nn.Module:
    """Three cross-connected paths."""
    return _cross_connected(3, in_channels, classes, routers, channels_last)


@register
def basecnn_4_cc(
    classes: int = 10, in_channels: int = 3, routers: str = "fused", channels_last: bool = False
) -> nn.Module:
    """Four cross-connected paths."""
    return _cross_connected(4, in_channels, classes, routers, channels_last)


def _cross_predicted(
    paths: int, in_channels: int, classes: int, routers: str, channels_last: bool
) -> Routed:
    kind = router_kind(routers)

    def conv_router(inputs: int, channels: int, outputs: int) -> nn.Module:
        return kind.CrossPredictConv2d(  # type: ignore[no-any-return]
            channels, outputs, 3, inputs, paths, padding=1, batch_norm=True
        )

    def end_of_path() -> nn.Module:
        return nn.Sequential(conv(128, 128), nn.Flatten(), dense(128 * 8 * 8, 32))

    stages = [
        (conv_router(1, in_channels, 32), lambda: nn.Sequential(conv(32, 32), nn.MaxPool2d(2))),
        (conv_router(paths, 32, 64), lambda: nn.Sequential(conv(64, 64), nn.MaxPool2d(2))),
        (conv_router(paths, 64, 128), end_of_path),
        (
            kind.CrossPredictLinear(32, 32, paths, paths, batch_norm=True),
            lambda: nn.Linear(32, classes),
        ),
    ]
    return Routed([(router, Parallel(paths, rest)) for router, rest in stages], channels_last)


@register
def basecnn_2_cp(
    classes: int = 10, in_channels: int = 3, routers: str = "fused", channels_last: bool = False
) -> nn.Module:
    """Two cross-predicted paths."""
    return _cross_predicted(2, in_channels, classes, routers, channels_last)


@register
def basecnn_3_cp(
    classes: int = 10, in_channels: int = 3, routers: str = "fused", channels_last: bool = False
) -> nn.Module:
    """Three cross-predicted paths."""
    return _cross_predicted(3, in_channels, classes, routers, channels_last)


@register
def basecnn_4_cp(
    classes: int = 10, in_channels: int = 3, routers: str = "fused", channels_last: bool = False
) -> nn.Module:
    """Four cross-predicted paths."""
    return _cross_predicted(4, in_channels, classes, routers, channels_last)


@register
def cr_stitch_2(
    classes: int = 10, in_channels: int = 3, routers: str = "fused", channels_last: bool = False
) -> nn.Module:
    """Two paths mixed by learned weights that do not depend on the input."""
    kind = router_kind(routers)
    segments = _segments(in_channels, classes)
    stages = [
        (kind.CrossStitch(2, inputs=1 if at == 0 else 2), Parallel(2, segment))
        for at, segment in enumerate(segments)
    ]
    return Routed(stages, channels_last)
