"""What the configurations of all families share: a network is the fields of a frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

from torch import nn

import mpkernels

from .memory_format import in_format


def router_kind(routers: str) -> ModuleType:
    """The module that holds the routers of a kind: "fused" or "eager".

    Raises:
        ValueError: it is neither.
    """
    kinds: dict[str, ModuleType] = {"fused": mpkernels, "eager": mpkernels.eager}
    if routers not in kinds:
        raise ValueError(f'routers must be "fused" or "eager", got {routers!r}')
    return kinds[routers]


@dataclass(frozen=True)
class Config:
    """The options that every network has.

    Args:
        num_classes: of the logits.
        in_channels: of the images.
        channels_last: memory format of the maps.
        size: height and width of the images that the network is made for. Networks that end in
            a global average take any other size too.
    """

    num_classes: int = 10
    in_channels: int = 3
    channels_last: bool = False
    size: int = 32

    def __post_init__(self) -> None:
        for name in ("num_classes", "in_channels", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def network(self) -> nn.Module:
        """The network, in the usual memory format."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        """The network.

        Raises:
            ValueError: these fields do not make a network; the message names the field.
        """
        return in_format(self.network(), self.channels_last)


@dataclass(frozen=True)
class PathsConfig(Config):
    """A network of one or more paths.

    Args:
        paths: their number, n. One without routers is the plain network.
        kind: of the routers between the paths: "cc" (cross-connections), "cp" (cross-predictions)
            or "stitch" (learned weights that do not depend on the input). None: the paths never
            meet before their logits are averaged.
        hidden: units of each gate.
        routers: "fused" or "eager"; names and shapes of the parameters are the same.
    """

    paths: int = 1
    kind: str | None = None
    hidden: int = 16
    routers: str = "fused"

    ALLOWED: ClassVar[tuple[str, ...]] = ("cc", "cp", "stitch")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("paths", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.kind is not None and self.kind not in self.ALLOWED:
            allowed = ", ".join([*self.ALLOWED, "None"])
            raise ValueError(f"kind must be one of {allowed}, got {self.kind!r}")
        router_kind(self.routers)

    def connect(self, channels: int, inputs: int) -> nn.Module:
        """A router that mixes `inputs` maps of so many channels into all paths."""
        kinds = router_kind(self.routers)
        made: nn.Module
        if self.kind == "stitch":
            made = kinds.CrossStitch(self.paths, inputs=inputs)
        else:
            made = kinds.CrossConnect(channels, inputs, self.paths, self.hidden)
        return made

    def predict(self, in_channels: int, out_channels: int, inputs: int) -> nn.Module:
        """A router of 3x3 convolutions from `inputs` maps to all paths, with batch norm."""
        made: nn.Module = router_kind(self.routers).CrossPredictConv2d(
            in_channels, out_channels, 3, inputs, self.paths,
            padding=1, hidden=self.hidden, batch_norm=True,
        )  # fmt: skip
        return made
