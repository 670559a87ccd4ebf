"""Watches every load and store that Triton's interpreter makes.

The meter counts bytes per argument and raises on what would be an error on a GPU: an address
outside the launch's tensors, an element that two programs write or that one writes and another
reads, a value read back without a barrier, an atomic. Masked lanes without `other` load NaN.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
import triton.runtime.interpreter as interpreter

NOBODY = -1
SEVERAL = -2


class TrafficError(AssertionError):
    """A kernel accessed memory that it may not, or in an order that no GPU guarantees."""


class _Storage:
    """The owner, the accesses and the store counts of each element of one storage."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.start = tensor.untyped_storage().data_ptr()
        self.itemsize = tensor.element_size()
        count = tensor.untyped_storage().nbytes() // self.itemsize
        self.owner = np.full(count, NOBODY)  # index of the argument
        self.stores = np.zeros(count, np.int64)  # over all launches
        self.forget_programs()

    def forget_programs(self) -> None:
        self.writer = np.full(len(self.owner), NOBODY)
        self.reader = np.full(len(self.owner), NOBODY)
        self.written_in = np.full(len(self.owner), NOBODY)  # barriers passed before the store


class _Argument(NamedTuple):
    name: str  # of the kernel's parameter
    storage: _Storage


class Meter:
    """`with Meter() as meter: ...` counts what the kernels launched inside load and store.

    Attributes:
        loaded, stored: bytes by name of the kernel's parameter, summed over all launches.
        launches: names of the kernels, in order.
    """

    def __init__(self) -> None:
        self.loaded: Counter[str] = Counter()
        self.stored: Counter[str] = Counter()
        self.launches: list[str] = []
        self._storages: dict[int, _Storage] = {}
        self._arguments: list[_Argument] = []
        self._alive: list[torch.Tensor] = []  # so that no storage is freed and reused

    def _admit(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.numel() == 0:
            return
        self._alive.append(tensor)
        start = tensor.untyped_storage().data_ptr()
        storage = self._storages.get(start)
        if storage is None:
            storage = self._storages[start] = _Storage(tensor)
        owned = torch.from_numpy(storage.owner).as_strided(
            tensor.shape, tensor.stride(), tensor.storage_offset()
        )
        owned.fill_(len(self._arguments))
        self._arguments.append(_Argument(name, storage))

    def _launch(self, executor, arguments) -> None:
        self.launches.append(executor.fn.__name__)
        self._arguments, self._barriers = [], 0
        for storage in self._storages.values():
            storage.owner.fill(NOBODY)
            storage.forget_programs()  # a launch sees everything that earlier ones wrote
        for name, value in zip(executor.arg_names, arguments):
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, torch.Tensor):
                    self._admit(name, each)
        self._order = sorted({a.storage.start for a in self._arguments})

    def _elements(self, addresses, width: int, what: str):
        """The elements at these addresses, as (storage, element indices) pairs."""
        starts = np.array(self._order, dtype=np.uint64)
        which = np.searchsorted(starts, addresses, side="right") - 1
        for index in np.unique(which):
            inside = addresses[which == index]
            if index < 0:
                raise TrafficError(f"{what} before every tensor of the launch")
            storage = self._storages[self._order[index]]
            offset = (inside - starts[index]).astype(np.int64)
            element = offset // storage.itemsize
            if width != storage.itemsize or (offset % width).any():
                raise TrafficError(f"{what} of {width} bytes across elements")
            if (element >= len(storage.owner)).any() or (storage.owner[element] == NOBODY).any():
                raise TrafficError(f"{what} outside the tensors of the launch")
            yield storage, element

    def _touch(self, pointers, mask, what: str) -> None:
        shape = np.broadcast_shapes(np.shape(pointers.data), np.shape(mask.data))
        chosen = np.broadcast_to(mask.data, shape).astype(bool)
        addresses = np.broadcast_to(pointers.data, shape)[chosen].astype(np.uint64).ravel()
        width = np.dtype(interpreter._get_np_dtype(pointers.get_element_ty())).itemsize
        builder = interpreter.interpreter_builder
        program = int(np.ravel_multi_index(builder.grid_idx, builder.grid_dim))
        for storage, element in self._elements(addresses, width, what):
            count = np.bincount(storage.owner[element], minlength=len(self._arguments))
            counter = self.loaded if what == "load" else self.stored
            for argument, times in zip(self._arguments, count):
                if times:
                    counter[argument.name] += int(times) * width
            (self._read if what == "load" else self._write)(storage, element, program)

    def _name(self, storage: _Storage, element) -> str:
        return self._arguments[storage.owner[element[0]]].name

    def _read(self, storage: _Storage, element, program: int) -> None:
        writer = storage.writer[element]
        if ((writer != NOBODY) & (writer != program)).any():
            raise TrafficError(f"{self._name(storage, element)} read and written by two programs")
        if ((writer == program) & (storage.written_in[element] == self._barriers)).any():
            raise TrafficError(f"{self._name(storage, element)} read back without a barrier")
        reader = storage.reader[element]
        alone = (reader == NOBODY) | (reader == program)
        storage.reader[element] = np.where(alone, program, SEVERAL)

    def _write(self, storage: _Storage, element, program: int) -> None:
        if len(np.unique(element)) != len(element):
            raise TrafficError(f"{self._name(storage, element)}: one store writes an element twice")
        writer, reader = storage.writer[element], storage.reader[element]
        if ((writer != NOBODY) & (writer != program)).any():
            raise TrafficError(f"{self._name(storage, element)} written by two programs")
        if ((reader != NOBODY) & (reader != program)).any():
            raise TrafficError(f"{self._name(storage, element)} read and written by two programs")
        storage.writer[element] = program
        storage.written_in[element] = self._barriers
        storage.stores[element] += 1

    def assert_written_once(self, *tensors: torch.Tensor) -> None:
        """Raises unless every element of each tensor was stored exactly once."""
        for tensor in tensors:
            storage = self._storages[tensor.untyped_storage().data_ptr()]
            stores = torch.from_numpy(storage.stores).as_strided(
                tensor.shape, tensor.stride(), tensor.storage_offset()
            )
            if not bool((stores == 1).all()):
                raise TrafficError(f"elements stored {stores.unique().tolist()} times, not once")

    def __enter__(self) -> Meter:
        builder, grid = interpreter.InterpreterBuilder, interpreter.GridExecutor
        names = ("create_masked_load", "create_masked_store", "create_barrier",
                 "create_atomic_rmw", "create_atomic_cas")  # fmt: skip
        self._saved = [(builder, name, getattr(builder, name)) for name in names]
        self._saved.append((grid, "__call__", grid.__call__))
        load, store, _, _, _, call = (old for _, _, old in self._saved)

        def metered_load(this, pointers, mask, other, *rest):
            self._touch(pointers, mask, "load")
            if other is None and not np.all(mask.data):
                dtype = interpreter._get_np_dtype(pointers.get_element_ty())
                ones = np.empty(np.shape(pointers.data), dtype)
                ones.view(np.uint8).fill(0xFF)  # NaN in every float format
                other = interpreter.TensorHandle(ones, pointers.get_element_ty())
            return load(this, pointers, mask, other, *rest)

        def metered_store(this, pointers, value, mask, *rest):
            self._touch(pointers, mask, "store")
            return store(this, pointers, value, mask, *rest)

        def barrier(this):
            self._barriers += 1

        def atomic(this, *rest):
            raise TrafficError("an atomic: sums have a fixed order here")

        def metered_call(executor, *arguments, **named):
            self._launch(executor, arguments)
            return call(executor, *arguments, **named)

        builder.create_masked_load, builder.create_masked_store = metered_load, metered_store
        builder.create_barrier = barrier
        builder.create_atomic_rmw = builder.create_atomic_cas = atomic
        grid.__call__ = metered_call
        return self

    def __exit__(self, *error) -> None:
        for place, name, old in self._saved:
            setattr(place, name, old)
