"""Swaps a model's eager routers for fused ones, and back."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from mpkernels import eager, modules

Model = TypeVar("Model", bound=nn.Module)

_FUSED: dict[type[nn.Module], type[nn.Module]] = {
    eager.CrossConnect: modules.CrossConnect,
    eager.CrossPredictConv2d: modules.CrossPredictConv2d,
    eager.CrossPredictLinear: modules.CrossPredictLinear,
    eager.CrossStitch: modules.CrossStitch,
}
_EAGER = {fused: plain for plain, fused in _FUSED.items()}


def _swap(model: Model, classes: dict[type[nn.Module], type[nn.Module]]) -> Model:
    # Both classes hold the same attributes and differ in one method, so the module object itself
    # stays: parameters, hooks, training mode and every reference to it remain valid.
    for module in model.modules():
        module.__class__ = classes.get(type(module), type(module))
    return model


def fuse(model: Model) -> Model:
    """Makes every eager router of `model` a fused one, in place, and returns `model`.

    Parameters, hooks and optimizer state stay where they are. Subclasses of the eager routers
    are left alone: their behaviour is their author's.

    Example:
        >>> model = nn.Sequential(eager.CrossConnect(8, inputs=1, outputs=2))
        >>> type(fuse(model)[0]).__module__
        'mpkernels.modules'
    """
    return _swap(model, _FUSED)


def unfuse(model: Model) -> Model:
    """Undoes `fuse`: makes every fused router of `model` an eager one, in place."""
    return _swap(model, _EAGER)
