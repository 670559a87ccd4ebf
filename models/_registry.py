"""Networks by name: the decorated function's name is the network's."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])
_FACTORIES: dict[str, Callable[..., nn.Module]] = {}


def register(factory: Factory) -> Factory:
    """Makes `factory` available to `create` under its own name.

    Raises:
        ValueError: the name is taken.
    """
    name = factory.__name__
    if name in _FACTORIES:
        raise ValueError(f"register: the name {name!r} is taken")
    _FACTORIES[name] = factory
    return factory


def list_models() -> list[str]:
    """The names of all networks, sorted."""
    return sorted(_FACTORIES)


def create(name: str, **options: Any) -> nn.Module:
    """Builds the network `name`.

    Args:
        name: one of `models.list()`.
        options: `num_classes` (10), `in_channels` (3), `channels_last` (False) and, for
            networks with routers, `routers` ("fused" or "eager").

    Raises:
        ValueError: the name is unknown, or an option has a value that it cannot have.
        TypeError: the network has no such option.

    Example:
        >>> create("basecnn_2_cc", num_classes=100)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 100])
    """
    if name not in _FACTORIES:
        close = difflib.get_close_matches(name, _FACTORIES) or list_models()
        raise ValueError(f"create: name must be one of {', '.join(close)}, ... got {name!r}")
    return _FACTORIES[name](**options)
