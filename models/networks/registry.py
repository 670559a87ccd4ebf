"""Networks by name: a decorated function's, or that of a configuration."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ..training import checkpoint
from .config import Config

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class _Network:
    """How a network is made, its options with their defaults, one line about it."""

    make: Callable[..., nn.Module]
    options: dict[str, Any]
    about: str


_NETWORKS: dict[str, _Network] = {}


def _add(name: str, network: _Network) -> None:
    if name in _NETWORKS:
        raise ValueError(f"register: the name {name!r} is taken")
    _NETWORKS[name] = network


def register(factory: Factory) -> Factory:
    """Makes `factory` available to `create` under its own name; its parameters are the options.

    Raises:
        ValueError: the name is taken.
    """
    parameters = inspect.signature(factory).parameters.values()
    about = (factory.__doc__ or "").strip().partition("\n")[0]
    _add(factory.__name__, _Network(factory, {p.name: p.default for p in parameters}, about))
    return factory


def register_config(name: str, config: Config, about: str) -> None:
    """Makes the network of `config` available as `name`; the options are the fields.

    Raises:
        ValueError: the name is taken.
    """
    defaults = {field.name: getattr(config, field.name) for field in fields(config)}

    def make(**options: Any) -> nn.Module:
        return replace(config, **options).build()

    _add(name, _Network(make, defaults, about))


def list_models(pattern: str = "*") -> list[str]:
    """The names that match a pattern of the shell, such as "*_cc"; all if not given. Sorted."""
    return sorted(name for name in _NETWORKS if fnmatch(name, pattern))


def _find(name: str) -> _Network:
    if name not in _NETWORKS:
        close = difflib.get_close_matches(name, _NETWORKS) or list_models()
        raise ValueError(f"create: name must be one of {', '.join(close)}, ... got {name!r}")
    return _NETWORKS[name]


def options(name: str) -> dict[str, Any]:
    """The options of a network, with their defaults.

    Raises:
        ValueError: the name is unknown.
    """
    return dict(_find(name).options)


def about(name: str) -> str:
    """One line about a network.

    Raises:
        ValueError: the name is unknown.
    """
    return _find(name).about


def create(name: str, *, pretrained: str | Path | None = None, **options: Any) -> nn.Module:
    """Builds the network `name`.

    Args:
        name: one of `models.list()`.
        pretrained: a checkpoint that training wrote (`models.train` or `models.training.fit`);
            its weights are loaded, whichever kind of routers it was trained with.
        options: `num_classes`, `in_channels` (3) and `channels_last` (False) of every network;
            those that can have routers also take `routers` ("fused" or "eager"), `paths`, `kind`
            ("cc", "cp", "stitch" or None: what joins the paths) and `hidden` (of the gates). All
            options with their defaults: `models.options(name)`.

    Returns:
        the network, in training mode; it maps images [B, in_channels, H, W] to logits
        [B, num_classes].

    Raises:
        ValueError: the name is unknown, an option has a value that it cannot have, or the
            checkpoint is one of another network.
        TypeError: the network has no such option, or `pretrained` is no path.
        OSError: there is no such checkpoint (FileNotFoundError), or it cannot be read.

    Example:
        >>> create("basecnn_2_cc", num_classes=100)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 100])
    """
    network = _find(name)
    unknown = sorted(set(options) - set(network.options))
    if unknown:
        known = ", ".join(network.options)
        raise TypeError(f"create: {name} has no option {', '.join(unknown)}; it has {known}")
    if pretrained is not None and not isinstance(pretrained, (str, os.PathLike)):
        raise TypeError(
            "pretrained must be the path of a run's folder or of its checkpoint.json, or None: "
            f"no weights come with the networks; got {pretrained!r}"
        )
    model = network.make(**options)
    if pretrained is not None:
        checkpoint.load_weights(model, name, Path(pretrained))
    return model
