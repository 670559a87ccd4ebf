"""Plain convolutional networks with one path, with several, and with routers between them.

A network is stages of 3x3 convolutions with a max pool between them, then dense layers. Batch norm
and ReLU follow every convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from .config import PathsConfig, router_kind
from .layers import Parallel, Routed, Unrouted, conv, dense

Segment = Callable[[], list[nn.Module]]
Stages = list[tuple[nn.Module, Parallel]]


@dataclass(frozen=True)
class CNNConfig(PathsConfig):
    """Sizes of a plain convolutional network.

    Args:
        stages: channels of each convolution, stage by stage.
        dense: widths of the hidden dense layers, at least one.
        dense_norm: whether each of them has batch norm.
        pool_last: whether a max pool follows the last stage too.
    """

    stages: tuple[tuple[int, ...], ...] = ((32, 32), (64, 64), (128, 128))
    dense: tuple[int, ...] = (32, 32)
    dense_norm: bool = True
    pool_last: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages or not all(self.stages):
            raise ValueError(f"stages must hold at least one convolution each, got {self.stages}")
        if not self.dense:
            raise ValueError("dense must hold at least one width, got none")
        if self.size % 2**self.pools:
            raise ValueError(f"size must be a multiple of {2**self.pools}, got {self.size}")

    @property
    def pools(self) -> int:
        """Number of max pools, each of which halves height and width."""
        return len(self.stages) - (0 if self.pool_last else 1)

    def widths(self) -> list[int]:
        """Channels of the maps that reach each segment."""
        return [self.in_channels, *(stage[-1] for stage in self.stages), self.dense[0]]

    def segments(self) -> list[Segment]:
        """One path, cut where routers go: in front of each stage and each dense part."""
        stages: list[Segment] = [partial(self._stage, at) for at in range(len(self.stages))]
        return [*stages, self._first_dense, self._last_dense]

    def _stage(self, at: int) -> list[nn.Module]:
        stage = self.stages[at]
        pairs = zip((self.widths()[at], *stage), stage)
        layers: list[nn.Module] = [conv(inputs, outputs) for inputs, outputs in pairs]
        return [*layers, nn.MaxPool2d(2)] if at < self.pools else layers

    def _first_dense(self) -> list[nn.Module]:
        features = self.stages[-1][-1] * (self.size // 2**self.pools) ** 2
        return [nn.Flatten(), dense(features, self.dense[0], self.dense_norm)]

    def _last_dense(self) -> list[nn.Module]:
        pairs = zip(self.dense, self.dense[1:])
        hidden = [dense(inputs, outputs, self.dense_norm) for inputs, outputs in pairs]
        return [*hidden, nn.Linear(self.dense[-1], self.num_classes)]

    def network(self) -> nn.Module:
        """Paths without routers, or with routers of the kind between them."""
        if self.kind is None:
            path = lambda: nn.Sequential(*map(_layer, self.segments()))  # noqa: E731
            return Unrouted(self.paths, path, self.average)
        stages = _predicted(self) if self.kind == "cp" else _connected(self)
        return Routed(stages, average=self.average)


def _layer(segment: Segment) -> nn.Module:
    return nn.Sequential(*segment())


def _connected(config: CNNConfig) -> Stages:
    """A router in front of every segment."""
    paths = config.paths
    return [
        (config.connect(width, paths if at else 1), Parallel(paths, partial(_layer, segment)))
        for at, (width, segment) in enumerate(zip(config.widths(), config.segments()))
    ]


def _predicted(config: CNNConfig) -> Stages:
    """Routers replace the first convolution of each stage and the second dense layer.

    Raises:
        ValueError: there is no second dense layer.
    """
    if len(config.dense) < 2:
        raise ValueError(f'kind "cp" needs two hidden dense layers, got dense = {config.dense}')
    paths, widths = config.paths, config.widths()
    *convolutions, first, last = config.segments()
    stages: Stages = []
    for at, segment in enumerate(convolutions):
        router = config.predict(widths[at], config.stages[at][0], paths if at else 1)
        following = [first] if at + 1 == len(convolutions) else []
        stages.append((router, Parallel(paths, partial(_rest, segment, *following))))
    router = router_kind(config.routers).CrossPredictLinear(
        *config.dense[:2], paths, paths, hidden=config.hidden, batch_norm=config.dense_norm,
        gate_init=config.gate_init,
    )  # fmt: skip
    return [*stages, (router, Parallel(paths, partial(_rest, last)))]


def _rest(segment: Segment, *following: Segment) -> nn.Module:
    """The segments without the first layer, which a router replaces."""
    return nn.Sequential(*segment()[1:], *(layer for more in following for layer in more()))
