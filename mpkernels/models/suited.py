"""The options of a network that its images decide."""

from __future__ import annotations

import statistics
from typing import Any

from .data import DataSet
from .networks import registry


def options_for(name: str, images: DataSet, **chosen: Any) -> dict[str, Any]:
    """Those that the network `name` has: of its images, and of the user's choice.

    Args:
        name: of the network.
        images: decide num_classes, size, and the deviation that a loss on pixels needs to know.
        chosen: further options, left out where the network has none of that name.
    """
    decided: dict[str, Any] = {"num_classes": images.classes, "size": images.size}
    if images.preparation is not None:
        decided["deviation"] = statistics.fmean(images.preparation.std)
    known = registry.options(name)
    return {option: value for option, value in {**decided, **chosen}.items() if option in known}
