"""Networks by name: each is a configuration whose fields are its options."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatch
from typing import Any

from torch import nn

from .config import Config


@dataclass(frozen=True)
class _Network:
    """A network's configuration and one line about it."""

    config: Config
    about: str


_NETWORKS: dict[str, _Network] = {}


def register_config(name: str, config: Config, about: str) -> None:
    """Makes the network of `config` available as `name`; the options are the fields.

    Raises:
        ValueError: the name is taken.
    """
    if name in _NETWORKS:
        raise ValueError(f"register: the name {name!r} is taken")
    _NETWORKS[name] = _Network(config, about)


def list_models(pattern: str = "*") -> list[str]:
    """The names that match a shell pattern such as "*_cc", sorted; by default all of them."""
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
    config = _find(name).config
    return {field.name: getattr(config, field.name) for field in fields(config)}


def about(name: str) -> str:
    """One line about a network.

    Raises:
        ValueError: the name is unknown.
    """
    return _find(name).about


def build(name: str, **options: Any) -> nn.Module:
    """Builds a network with new weights; see `models.create`.

    Raises:
        ValueError: the name is unknown, or an option has a value it cannot have.
        TypeError: the network has no such option.
    """
    config = _find(name).config
    known = [field.name for field in fields(config)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(
            f"create: {name} has no option {', '.join(unknown)}; it has {', '.join(known)}"
        )
    return replace(config, **options).build()
