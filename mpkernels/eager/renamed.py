"""Names that have become others: the old ones work for one release, and warn (CONTRIBUTING.md)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def warn_of(old: str, new: str, gone: str) -> None:
    """Warns whoever called the caller of this function; in release `gone` the old name is gone."""
    message = f"{old} is now {new}; the old name goes in mpkernels {gone}"
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def renamed_arguments(gone: str, **names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a constructor take keyword arguments by their old names too, given as old=new."""

    def with_old_names(init: Callable[P, R]) -> Callable[P, R]:
        router = init.__qualname__.removesuffix(".__init__")

        @functools.wraps(init)
        def renamed(*arguments: P.args, **named: P.kwargs) -> R:
            for old in names.keys() & named.keys():
                new = names[old]
                warn_of(f"{router}: {old}", new, gone)
                if new in named:
                    raise TypeError(f"{router}: {old} and {new} are the same; pass {new} alone")
                named[new] = named.pop(old)
            return init(*arguments, **named)

        return renamed

    return with_old_names
