"""The options of a network that its images and its recipe decide."""

from __future__ import annotations

import statistics
from typing import Any

from .data import DataSet
from .networks import registry
from .training.recipe import Recipe


def options_for(
    name: str, images: DataSet, recipe: Recipe | None = None, **chosen: Any
) -> dict[str, Any]:
    """Those that the network `name` has: of its images, its recipe, and of the user's choice.

    Args:
        name: of the network.
        images: decide num_classes, size, and the deviation that a loss on pixels needs to know.
        recipe: decides layer_init.
        chosen: further options, left out where the network has none of that name.

    Raises:
        ValueError: the recipe wants a layer_init that the network has not.
    """
    decided: dict[str, Any] = {"num_classes": images.classes, "size": images.size}
    if images.preparation is not None:
        decided["deviation"] = statistics.fmean(images.preparation.std)
    known = registry.options(name)
    if recipe is not None and recipe.layer_init != Recipe.layer_init:
        if "layer_init" not in known:
            raise ValueError(f"layer_init must be {Recipe.layer_init}: {name} has no such option")
        decided["layer_init"] = recipe.layer_init
    return {option: value for option, value in {**decided, **chosen}.items() if option in known}
