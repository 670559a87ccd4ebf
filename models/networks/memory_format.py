"""Networks whose maps are channels_last."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def _convert(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])


def in_format(model: Network, channels_last: bool) -> Network:
    """The same network; if `channels_last`, its kernels and every image it is given are so.

    A network that converts images in its own `forward` has an attribute `channels_last`: the
    compiler then gets one graph, where a hook is a graph of its own.
    """
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(getattr(model, "channels_last", None), bool):
            model.channels_last = True  # type: ignore[assignment]
        else:
            model.register_forward_pre_hook(_convert)
    return model
