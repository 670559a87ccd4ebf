"""The optimizer of a recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mpkernels import eager

from .recipe import Recipe

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, eager.CrossPredictConv2d)


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or Adam, whose weight decay is on what the recipe says."""
    groups: list[dict[str, Any]] = [{"params": [*model.parameters()]}]
    if recipe.weight_decay_on == "kernels":
        kernels = {m.weight: None for m in model.modules() if isinstance(m, CONVOLUTIONS)}
        others = [p for p in model.parameters() if p not in kernels]
        groups = [{"params": [*kernels]}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        groups, recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
