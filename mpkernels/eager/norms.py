"""Whether a norm of an output is PyTorch's own batch norm, and its call nothing more than that."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_module = nn.modules.module
# What a call of a module passes through. Whoever replaces one of them wants to see or change it.
_STEPS = ("__call__", "_wrapped_call_impl", "_call_impl", "forward", "_check_input_dim")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(name.replace("_", "_global_", 1) for name in _HOOKS)


def _steps(kind: type[nn.Module]) -> tuple[Any, ...]:
    return tuple(getattr(kind, name, None) for name in _STEPS)


def _comes_from(step: Any, home: str) -> bool:
    """Whether a step was written there: a function that is put in its place has other globals."""
    name: str = getattr(step, "__globals__", {}).get("__name__", "")
    return name.startswith(home)


def _is_torchs(step: Any) -> bool:
    return step is None or _comes_from(step, "torch.nn.modules.")


def _are_own(kind: type[nn.Module]) -> bool:
    """Whether the steps are as they were; `torch.export` puts its tracer around `__call__`."""
    steps, own = _steps(kind), _OWN[kind]
    if steps == own:
        return True
    return all(now is was or _comes_from(now, "torch.fx.") for now, was in zip(steps, own))


# Each class with its steps as they were when this was imported, unless patched already then. In
# evaluation, SyncBatchNorm does what the others do.
_OWN: dict[type[nn.Module], tuple[Any, ...]] = {
    kind: _steps(kind)
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    if all(map(_is_torchs, _steps(kind)))
}


def why_watched(norm: nn.Module) -> str | None:
    """What a call of this module does beside a batch norm, as the end of a sentence, or None."""
    kind = type(norm)
    if kind not in _OWN:
        return f"is a {kind.__name__}"
    attributes = norm.__dict__  # lists below, not generators: these run at every call
    if not _are_own(kind) or [step for step in _STEPS if step in attributes]:
        return f"has another forward than {kind.__name__}"
    if [name for name in _HOOKS if attributes.get(name, True)]:
        return "has hooks to run"
    # Private names: where one is missing, hooks may be kept elsewhere.
    if [name for name in _GLOBAL_HOOKS if getattr(_module, name, True)]:
        return "has hooks of all modules to run"
    return None


def _is_plain(kind: type[Tensor]) -> bool:
    """Whether a class of tensors, if it is not PyTorch's, is one that only stands for values."""
    if kind in (Tensor, nn.Parameter):
        return True
    # A fake tensor, as in torch.export: not one that sees functions, nor one made of others.
    blind = kind.__torch_function__ is nn.Parameter.__torch_function__
    return blind and not hasattr(kind, "__tensor_flatten__")


class Values(NamedTuple):
    """What a batch norm in evaluation mode computes with; None where it has none."""

    mean: Tensor | None
    variance: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


_NAMES = ("running_mean", "running_var", "weight", "bias")


def values_of(norm: nn.Module) -> Values:
    """Statistics and parameters, in a tenth of the time that nn.Module's own lookup takes."""
    parameters, buffers = norm._parameters, norm._buffers
    return Values(*[parameters.get(name, buffers.get(name)) for name in _NAMES])


class Plain(NamedTuple):
    """What plain values of a norm are: so many numbers, on a device, in one of some dtypes."""

    size: int
    dtypes: tuple[torch.dtype, ...]
    device: torch.device


def plain_like(weight: Tensor, size: int) -> Plain:
    """The values that suit the outputs of a layer with this weight."""
    # Maps of half precision may be normalised in float32; else PyTorch takes one dtype alone.
    half = weight.dtype.itemsize == 2
    return Plain(size, (weight.dtype, torch.float32)[: 1 + half], weight.device)


def why_not_plain(norm: nn.Module, values: Values, wanted: Plain) -> str | None:
    """Why the values of a norm are not what its author made them, as `why_watched`, or None."""
    for name, value in zip(_NAMES, values):
        if name in norm.__dict__:  # beside the parameters and buffers: put there by somebody
            return f"has a {name} that is neither parameter nor buffer"
        if value is None:
            continue
        if not _is_plain(type(value)):
            return f"has a {name} that is a {type(value).__name__}"
        if value.dtype not in wanted.dtypes or value.layout is not torch.strided:
            return f"has a {name} of {value.dtype}, {value.layout}"
        if value.device != wanted.device:
            return f"has a {name} on {value.device}"
        if value.shape != (wanted.size,):
            return f"has a {name} {list(value.shape)} for {wanted.size} channels"
    return None
