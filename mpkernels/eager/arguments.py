"""What users may pass: paths, dense tensors of floating point, sizes; and what is said otherwise.

Messages name the argument as the user wrote it, what was wanted and what was found, and where it
is plain what was meant, what to pass instead.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.parameter import is_lazy

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_ORDINARY = (Tensor, Parameter)
_STRIDED = torch.strided

# Device types that support autocast. Evaluated at import because Dynamo in torch 2.11 cannot trace
# the call. A device that is not PyTorch's own is loaded, and has its name, when torch is imported.
AUTOCAST = frozenset(
    kind
    for kind in (
        "cpu",
        "cuda",
        "xpu",
        "mps",
        "hpu",
        "mtia",
        torch.device("privateuseone").type,
    )
    if torch.amp.is_autocast_available(kind)
)


def shape(sizes: Iterable[int]) -> str:
    """Sizes as messages show them."""
    return "[" + ", ".join(str(int(size)) for size in sizes) + "]"


def as_list(here: str, xs: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The paths as a list; a single tensor counts as one path.

    Raises:
        TypeError: xs is neither a tensor nor a sequence that could hold tensors in order.
    """
    if isinstance(xs, Tensor):
        return [xs]
    # The items of a dict are its keys, those of a set have no order, those of an array are arrays.
    if not isinstance(xs, Iterable) or isinstance(xs, (Mapping, Set, str, bytes)):
        raise TypeError(f"{here} must be a tensor or a list of tensors, got {type(xs).__name__}")
    if hasattr(xs, "__array_interface__"):
        raise TypeError(f"{here} must be a tensor or a list of tensors, got a NumPy array")
    return list(xs)


def is_dense(value: Any) -> bool:
    """Whether the value is a tensor whose elements lie in memory by sizes and strides."""
    if type(value) not in _ORDINARY and (not isinstance(value, Tensor) or is_lazy(value)):
        return False
    return value.layout is _STRIDED and not value.is_nested


def check_dense(here: str, value: Any) -> None:
    """Raises TypeError, which names what the value is, unless `is_dense`."""
    if is_dense(value):
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{here} must be a tensor, got {type(value).__name__}")
    if is_lazy(value):
        raise TypeError(f"{here} must be a tensor, got an uninitialized parameter")
    if value.is_nested:
        raise TypeError(
            f"{here} must be a dense tensor, got a nested one; call once for each of its parts"
        )
    raise TypeError(
        f"{here} must be a dense tensor, got one of layout {value.layout}; pass its to_dense()"
    )


def check_floating(here: str, value: Tensor) -> None:
    """Raises TypeError unless maps may have this dtype."""
    if value.dtype not in FLOATING:
        raise TypeError(f"{here} must be float32, float64, bfloat16 or float16, got {value.dtype}")


def check_maps(xs: Sequence[Tensor], name: str = "xs", function: str = "") -> None:
    """Raises unless xs, the argument `name`, are maps or vectors of one shape, dtype and device.

    Messages begin with `function`, which ends in ": " where it is not empty.
    """
    for i, x in enumerate(xs):
        if not is_dense(x):
            check_dense(f"{function}{name}[{i}]", x)
    first = xs[0]
    for i, x in enumerate(xs):
        here = f"{function}{name}[{i}]"
        if x.dtype not in FLOATING:
            check_floating(here, x)
        if x.dim() < 2:
            hint = f"; for one vector [C] pass {name}[{i}].unsqueeze(0)" if x.dim() == 1 else ""
            raise ValueError(
                f"{here} must be [B, C, *spatial] or [B, C], got {shape(x.shape)}{hint}"
            )
        if i == 0:
            continue
        if x.shape != first.shape:
            raise ValueError(
                f"{here} must be {shape(first.shape)} as {name}[0], got {shape(x.shape)}"
            )
        if x.dtype != first.dtype:
            raise TypeError(f"{here} must be {first.dtype} as {name}[0], got {x.dtype}")
        if x.device != first.device:
            raise ValueError(f"{here} must be on {first.device} as {name}[0], got {x.device}")


def hint_of_stack(xs: Sequence[Any], inputs: int, channels: int | None, name: str = "xs") -> str:
    """What to pass instead, where one tensor may be a stack of so many paths.

    `channels` is None where any number of them would do.
    """
    if len(xs) != 1 or not is_dense(xs[0]) or xs[0].dim() < 3:
        return ""
    if channels is not None and xs[0].shape[2] != channels:
        return ""
    for dim, stack in enumerate(("[m, B, C, *spatial]", "[B, m, C, *spatial]")):
        if xs[0].shape[dim] == inputs:
            return f"; for a stack {stack} pass {name}.unbind({dim or ''})"
    return ""


def hint_of_channels(x: Tensor, channels: int) -> str:
    """What to pass instead, where the channels of x are its last dimension."""
    if x.dim() < 3 or x.shape[-1] != channels:
        return ""
    if x.dim() == 3:
        return "; for tokens [B, T, C] pass x.transpose(1, 2)"
    return "; for [B, *spatial, C] pass x.movedim(-1, 1)"


def check_sizes(**sizes: Any) -> list[int]:
    """The sizes as integers.

    Raises:
        TypeError: one is no integer; the message names it.
        ValueError: one is not positive.
    """
    integers = []
    for name, size in sizes.items():
        if isinstance(size, bool):
            raise TypeError(f"{name} must be an integer, got {size!r}")
        try:
            integers.append(operator.index(size))  # a NumPy integer too
        except TypeError as error:
            raise TypeError(f"{name} must be an integer, got {size!r}") from error
        if integers[-1] < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    return integers


def check_flags(**flags: Any) -> None:
    """Raises TypeError unless every flag is a bool; the message names it."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be a bool, got {flag!r}")


def check_parameter_dtype(dtype: Any) -> None:
    """Raises TypeError unless parameters may have this dtype, or it is None."""
    if dtype is not None and dtype not in FLOATING:
        raise TypeError(
            f"dtype must be torch.float32, float64, bfloat16 or float16, or None, got {dtype!r}"
        )


def check_dtype(x: Tensor, weight: Tensor, device: str) -> None:
    """Raises unless the convolution takes both, or autocast on `device` sees to that."""
    casts = device in AUTOCAST and torch.is_autocast_enabled(device)
    if x.dtype != weight.dtype and not (casts and torch.float64 not in (x.dtype, weight.dtype)):
        raise TypeError(f"xs[0] must be {weight.dtype} as weight, got {x.dtype}")
