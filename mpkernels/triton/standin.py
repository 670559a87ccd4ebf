"""Tensors without elements, for which a launcher plans a call instead of making it.

They have the shape, strides, dtype, device and alignment of a real one, and addresses at which
nothing lies. What a launcher allocates and copies is noted in the `Sketch` of the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkernels.ops.internals import make_wrapper

_NEW = {torch.ops.aten.new_empty.default, torch.ops.aten.new_empty_strided.default}
_CLONE = torch.ops.aten.clone.default


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same lists and dictionaries of the function's results."""
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(function, each) for each in value])
    if isinstance(value, dict):
        return {name: _mapped(function, each) for name, each in value.items()}
    return function(value)


class NotPlanned(Exception):
    """A launcher does more than allocate, copy and launch; the message says what."""


class Copy(NamedTuple):
    """A copy of the elements of one tensor to another, of the same shape."""

    to: Standin
    source: Standin


class Sketch:
    """What a launcher does, in order: allocations, copies and launches."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        # By the storage on the meta device: whether an argument, and its number.
        self._memory: dict[int, tuple[bool, int]] = {}
        self._kept: list[Any] = []  # storages, so that each has a number of its own
        self.allocated: list[Tensor] = []
        self._arguments = 0

    def _remember(self, meta: Tensor, is_argument: bool, number: int) -> None:
        storage = meta.untyped_storage()
        self._kept.append(storage)
        self._memory[storage._cdata] = is_argument, number

    def argument(
        self, shape: list[int], stride: list[int], dtype: torch.dtype, device: torch.device,
        aligned: bool,
    ) -> Standin:  # fmt: skip
        """The next tensor of the call."""
        meta = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        self._remember(meta, True, self._arguments)
        self._arguments += 1
        return Standin(self, meta, device, 0 if aligned else dtype.itemsize)

    def skip(self) -> None:
        """The next argument is None."""
        self._arguments += 1

    def allocation(self, meta: Tensor, device: torch.device) -> Standin:
        """New memory: aligned, as PyTorch's allocators give it."""
        self._remember(meta, False, len(self.allocated))
        self.allocated.append(meta)
        return Standin(self, meta, device, 0)

    def place(self, t: Standin) -> tuple[bool, int, int]:
        """Whether t lies in an argument, the number of it or of the allocation, and the offset."""
        is_argument, number = self._memory[t.meta.untyped_storage()._cdata]
        return is_argument, number, int(t.meta.storage_offset()) * t.dtype.itemsize


class Standin(Tensor):
    """See the module."""

    sketch: Sketch
    meta: Tensor
    shift: int  # of the address from a multiple of 16

    @staticmethod
    def __new__(cls, sketch: Sketch, meta: Tensor, device: torch.device, shift: int) -> Standin:
        """Looks like `meta` on this device."""
        if make_wrapper is None:
            raise NotPlanned("this torch makes no tensors without elements")
        t: Standin = make_wrapper(
            cls,
            meta.shape,
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            device=device,
        )
        t.sketch, t.meta, t.shift = sketch, meta, shift
        return t

    def data_ptr(self) -> int:
        """An address as well aligned as that of the tensor in whose place this one is."""
        if self.shift:  # neither is a part of it that might be, for all that is known
            return 4096 + self.shift
        return int(4096 + self.meta.storage_offset() * self.dtype.itemsize)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Notes what allocates and copies; views are views; anything else cannot be planned."""
        first: Standin = args[0]
        sketch, device, kwargs = first.sketch, first.device, dict(kwargs or {})
        if function is torch.ops.aten.copy_.default:
            if not isinstance(args[1], Standin) or args[0].shape != args[1].shape:
                raise NotPlanned("a copy of another shape")
            sketch.steps.append(Copy(args[0], args[1]))
            return args[0]
        # Below autograd, operators that are made of others arrive whole: contiguous is one.
        parts = function.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if torch.device(kwargs.pop("device", None) or device) != device:
            raise NotPlanned(f"{function} to another device")
        run: Callable[..., Any] = function
        metas = _mapped(lambda t: t.meta if isinstance(t, Standin) else t, (args, kwargs))
        if function in _NEW or function is _CLONE:
            new = sketch.allocation(run(*metas[0], **metas[1]), device)
            if function is _CLONE:
                sketch.steps.append(Copy(new, first))
            return new
        if not is_view(function):
            raise NotPlanned(f"it calls {function}")

        def wrapped(t: Any) -> Any:
            return Standin(sketch, t, device, first.shift) if isinstance(t, Tensor) else t

        return _mapped(wrapped, run(*metas[0], **metas[1]))


def is_view(function: Any) -> bool:
    """Whether an operator returns the memory of its argument and leaves it as it was."""
    returned = [r.alias_info for r in function._schema.returns]
    return bool(returned) and all(info is not None and not info.is_write for info in returned)


def covers(t: Tensor) -> bool:
    """Whether the elements of a tensor fill its storage, each once."""
    sizes = sorted((stride, size) for size, stride in zip(t.shape, t.stride()) if size != 1)
    expected = 1
    for stride, size in sizes:
        if stride != expected:
            return False
        expected *= size
    fills = t.untyped_storage().nbytes() == math.prod(t.shape) * t.dtype.itemsize
    return bool(t.storage_offset() == 0 and (fills or t.numel() == 0))
