"""What all configurations share: a network is described by the fields of a frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

import mpkernels

from .layers import AVERAGES
from .starts import LAYER_INITS, start

Network = TypeVar("Network", bound=nn.Module)


def _convert(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])


def in_format(model: Network, channels_last: bool) -> Network:
    """The same network; with `channels_last` its kernels and all its images get that format.

    A network that converts images in its own `forward` has an attribute `channels_last`: the
    compiler then sees one graph, whereas a hook would be a graph of its own.
    """
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(getattr(model, "channels_last", None), bool):
            model.channels_last = True  # type: ignore[assignment]
        else:
            model.register_forward_pre_hook(_convert)
    return model


def router_kind(routers: str) -> ModuleType:
    """The module that holds the "fused" or the "eager" routers.

    Raises:
        ValueError: `routers` is neither.
    """
    kinds: dict[str, ModuleType] = {"fused": mpkernels, "eager": mpkernels.eager}
    if routers not in kinds:
        raise ValueError(f'routers must be "fused" or "eager", got {routers!r}')
    return kinds[routers]


@dataclass(frozen=True)
class Config:
    """The options that every network has.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        channels_last: memory format of the maps.
        size: height and width of the images the network is built for. Networks that end in a
            global average accept any other size too.
    """

    num_classes: int = 10
    in_channels: int = 3
    channels_last: bool = False
    size: int = 32

    def __post_init__(self) -> None:
        self._at_least(1, "num_classes", "in_channels", "size")

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def network(self) -> nn.Module:
        """The network in contiguous format; each family defines it."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        """The network.

        Raises:
            ValueError: no network has these fields; the message names the field.
        """
        return in_format(self.network(), self.channels_last)


@dataclass(frozen=True)
class StacksConfig(Config):
    """A network of three stacks of blocks.

    Args:
        depth: blocks per stack.
    """

    depth: int = 18

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "depth")


@dataclass(frozen=True)
class PathsConfig(Config):
    """A network of one or more paths.

    Args:
        paths: n, the number of paths. A single one without routers is the plain network.
        kind: what joins the paths: "cc" (cross-connections), "cp" (cross-predictions), "stitch"
            (learned weights that do not depend on the input), or None: the paths never meet
            before what they say is averaged.
        hidden: hidden units per gate.
        routers: "fused" or "eager"; both have parameters of the same names and shapes.
        gate_init: how the gates start: "linear", "glorot" or "he".
        average: what is averaged over the paths at the end, their "logits" or "probabilities".
        layer_init: how convolutions and dense layers start: "pytorch" as PyTorch (those of ImageNet
            as torchvision) has it, or with biases 0 "he" (normal) or "glorot" (uniform).
    """

    paths: int = 1
    kind: str | None = None
    hidden: int = 16
    routers: str = "fused"
    gate_init: str = "linear"
    average: str = "logits"
    layer_init: str = "pytorch"

    ALLOWED: ClassVar[tuple[str, ...]] = ("cc", "cp", "stitch")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "paths", "hidden")
        if self.kind is not None and self.kind not in self.ALLOWED:
            allowed = ", ".join([*self.ALLOWED, "None"])
            raise ValueError(f"kind must be one of {allowed}, got {self.kind!r}")
        router_kind(self.routers)
        if self.average not in AVERAGES:
            raise ValueError(f"average must be one of {', '.join(AVERAGES)}, got {self.average!r}")
        if self.layer_init not in LAYER_INITS:
            known = ", ".join(LAYER_INITS)
            raise ValueError(f"layer_init must be one of {known}, got {self.layer_init!r}")

    def build(self) -> nn.Module:
        """The network, see `Config.build`."""
        model = self.network()
        if self.layer_init != "pytorch":
            start(model, self.layer_init)
        return in_format(model, self.channels_last)

    def connect(self, channels: int, inputs: int) -> nn.Module:
        """A router that mixes `inputs` maps of `channels` channels into all paths."""
        kinds = router_kind(self.routers)
        router: nn.Module
        if self.kind == "stitch":
            router = kinds.CrossStitch(inputs=inputs, outputs=self.paths)
        else:
            router = kinds.CrossConnect(
                channels, inputs, self.paths, self.hidden, gate_init=self.gate_init
            )
        return router

    def predict(self, in_channels: int, out_channels: int, inputs: int) -> nn.Module:
        """A router of 3x3 convolutions from `inputs` maps to all paths, with batch norm."""
        router: nn.Module = router_kind(self.routers).CrossPredictConv2d(
            in_channels, out_channels, 3, inputs, self.paths,
            padding=1, hidden=self.hidden, batch_norm=True, gate_init=self.gate_init,
        )  # fmt: skip
        return router
