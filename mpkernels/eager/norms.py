"""Whether a norm of an output is PyTorch's own batch norm, and its call nothing more than that."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as _module

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
    return all(
        now is own or _comes_from(now, "torch.fx.") for now, own in zip(_steps(kind), _OWN[kind])
    )


# Each class with its steps as they were when this was imported, unless patched already then. In
# evaluation, SyncBatchNorm does what the others do.
_OWN: dict[type[nn.Module], tuple[Any, ...]] = {
    kind: _steps(kind)
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    if all(map(_is_torchs, _steps(kind)))
}


def why_watched(norm: nn.Module) -> str | None:
    """What else than a batch norm a call of this module does, as the end of a sentence, or None."""
    kind = type(norm)
    if kind not in _OWN:
        return f"is a {kind.__name__}"
    if not _are_own(kind) or any(step in norm.__dict__ for step in _STEPS):
        return f"has another forward than {kind.__name__}"
    if any(getattr(norm, name, True) for name in _HOOKS):
        return "has hooks to run"
    # Private names: where one is missing, hooks may be kept elsewhere.
    if any(getattr(_module, name, True) for name in _GLOBAL_HOOKS):
        return "has hooks of all modules to run"
    return None


def _is_plain(kind: type[torch.Tensor]) -> bool:
    """Whether a class of tensors, if it is not PyTorch's, is one that only stands for values."""
    if kind in (torch.Tensor, nn.Parameter):
        return True
    # A fake tensor, as in torch.export: not one that sees functions, nor one made of others.
    blind = kind.__torch_function__ is nn.Parameter.__torch_function__
    return blind and not hasattr(kind, "__tensor_flatten__")


def value_of(norm: nn.Module, name: str) -> torch.Tensor | None:
    """A parameter or buffer by name, in a tenth of the time that nn.Module's own lookup takes."""
    value: torch.Tensor | None = norm._parameters.get(name)
    return norm._buffers.get(name) if value is None else value


def why_not_plain(norm: nn.Module, name: str, like: torch.Tensor, size: int) -> str | None:
    """Why a weight or statistic is not `size` plain numbers that suit maps of `like`, or None."""
    if name in norm.__dict__:  # beside the parameters and buffers: put there by somebody
        return f"has a {name} that is neither parameter nor buffer"
    value = value_of(norm, name)
    if value is None:
        return None
    if not _is_plain(type(value)):
        return f"has a {name} that is a {type(value).__name__}"
    # Maps of half precision may be normalised in float32; else PyTorch takes one dtype alone.
    dtypes = (like.dtype, torch.float32) if like.dtype.itemsize == 2 else (like.dtype,)
    if value.layout != torch.strided or value.dtype not in dtypes or value.device != like.device:
        return f"has a {name} of {value.dtype} on {value.device}, {value.layout}"
    if value.dim() != 1 or value.shape[0] != size:
        return f"has a {name} {list(value.shape)} for {size} channels"
    return None
