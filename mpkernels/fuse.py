"""Swaps a model's eager routers for fused ones, and back, and says which."""

from __future__ import annotations

import logging
import warnings
from typing import Any, TypeVar

from torch import nn

from mpkernels import eager, modules

Model = TypeVar("Model", bound=nn.Module)

_FUSED: dict[type, type] = {
    eager.CrossConnect: modules.CrossConnect,
    eager.CrossPredictConv2d: modules.CrossPredictConv2d,
    eager.CrossPredictLinear: modules.CrossPredictLinear,
    eager.CrossStitch: modules.CrossStitch,
}
_EAGER = {fused: plain for plain, fused in _FUSED.items()}

# Where PyTorch derives classes of its own from a module's: parametrizations, fully_shard.
_DERIVED_IN = ("torch.nn.utils.parametrize", "torch.distributed.")

_log = logging.getLogger(__name__)


def _rebased(cls: type, old: type, new: type) -> type:
    """`cls`, which PyTorch derived from `old`, derived from `new` in the same way.

    A new class with the same contents, such as the properties of parametrized tensors: copies of
    a module share its class, so that one must not change.
    """
    if not issubclass(cls, old):
        return cls
    if cls is old:
        return new
    bases = tuple(_rebased(base, old, new) for base in cls.__bases__)
    return type(cls.__name__, bases, dict(cls.__dict__))


def _public(router: type) -> str:
    return f"mpkernels.{'eager.' if router in _FUSED else ''}{router.__name__}"


def _swap(model: Model, classes: dict[type, type], verb: str, result: str) -> Model:
    # Both classes hold the same attributes and differ in one method, so the module object itself
    # stays: parameters, hooks, training mode and every reference to it remain valid.
    if not isinstance(model, nn.Module):
        raise TypeError(f"{verb}: model must be a module, got {type(model).__name__}")
    swapped, already, left = [], [], []
    for path, module in model.named_modules():
        cls: Any = type(module)
        router = next((c for c in cls.__mro__ if c in _FUSED or c in _EAGER), None)
        if router is None:
            continue
        path = repr(path) if path else "the model itself"
        own = next(c for c in cls.__mro__ if not c.__module__.startswith(_DERIVED_IN))
        if router not in classes:
            already.append(path)
        elif own is router:
            module.__class__ = _rebased(cls, router, classes[router])
            swapped.append(path)
        else:
            why = f"{own.__name__} is a subclass of {_public(router)}"
            left.append(f"{path} ({why}: derive it from {_public(classes[router])} instead)")
    routers = len(swapped) + len(already) + len(left)
    text = f"{verb}: " + (f"swapped {len(swapped)} of {routers}" if routers else "found no")
    text += f" routers in {type(model).__name__}"
    for what, paths in (("", swapped), (f"; {result} already", already), ("; left", left)):
        text += f"{what}: {', '.join(paths)}" if paths else ""
    if left or not swapped:
        warnings.warn(text, stacklevel=3)  # where `fuse` was called
    else:
        _log.info(text)
    return model


def fuse(model: Model) -> Model:
    """Makes every eager router of `model` a fused one, in place, and returns `model`.

    Parameters, hooks and optimizer state stay where they are. Routers that are parametrized,
    pruned or sharded by `fully_shard` stay so. Subclasses of the eager routers are left as they
    are: their behaviour is their author's.

    What was swapped is logged, by logger "mpkernels.fuse" at level INFO. Where a router was left,
    or none was swapped, a warning says so instead, and why.

    Raises:
        TypeError: model is no module.

    Example:
        >>> model = nn.Sequential(eager.CrossConnect(8, inputs=1, outputs=2))
        >>> type(fuse(model)[0]).__module__
        'mpkernels.modules'
    """
    return _swap(model, _FUSED, "fuse", "fused")


def unfuse(model: Model) -> Model:
    """Undoes `fuse`: makes every fused router of `model` an eager one, in place, and says which.

    Raises:
        TypeError: model is no module.
    """
    return _swap(model, _EAGER, "unfuse", "eager")
