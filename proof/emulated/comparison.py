"""Launches from C++ against those of Triton's own launcher: the same functions and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mpkernels.ops import backend
from mpkernels.ops.internals import tensors_of
from mpkernels.ops.operator import OPERATORS
from mpkernels.triton.launching import follow_plans
from proof.emulated.driver import Emulation, Launched


class _Calls(TorchDispatchMode):
    """Keeps the calls of this package's operators, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if function.namespace == "mpkernels" and name in OPERATORS:
            self.made.append((name, tree_map(lambda t: t, args)))
        return function(*args, **(kwargs or {}))


def calls_of(step: Any) -> list[tuple[str, tuple[Any, ...]]]:
    """The operators that a piece of code runs, with their arguments."""
    with _Calls() as calls:
        step()
    return calls.made


class _Kept(TorchDispatchMode):
    """Keeps all tensors that are made, so that no two lie at one place, and which are copies."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self.copies: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        new = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        self.tensors += new
        if "copy" in function.overloadpacket.__name__ or "clone" in str(function):
            self.copies |= {t.data_ptr() for t in new}
        return result


def _span(t: Tensor) -> tuple[int, int]:
    storage = t.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


class _Places:
    """Names for addresses that differ from run to run."""

    def __init__(self, arguments: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self._arguments = [_span(t) for t in arguments]
        self._outputs = [_span(t) for t in outputs]
        self.scratch: list[int] = []

    def name(self, address: int) -> Any:
        """Itself if in an argument; else output and offset, or the number of the scratch."""
        if address < 2**30 or any(a <= address < b for a, b in self._arguments):
            return address
        for q, (a, b) in enumerate(self._outputs):
            if a <= address < b:
                return "output", q, address - a
        if address not in self.scratch:
            self.scratch.append(address)
        return "scratch", self.scratch.index(address)


def _named(launches: Sequence[Launched], places: _Places) -> list[Any]:
    return [
        one._replace(
            values=tuple(
                places.name(v) if size == 8 else v for v, size in zip(one.values, one.sizes)
            ),
            contents=(),
        )
        for one in launches
    ]


def formats(tensors: Sequence[Tensor]) -> list[Any]:
    """What a caller sees of tensors beside their elements."""
    return [(t.shape, t.stride(), t.dtype, t.storage_offset()) for t in tensors]


def compare(emulation: Emulation, name: str, arguments: tuple[Any, ...]) -> int:
    """Asserts that both ways launch the same, and returns how many launches that are."""
    launcher = backend.kernel_of(name, "triton", "cuda")
    given = tensors_of(arguments)
    with emulation.recorded() as by_triton, torch.no_grad(), _Kept() as kept:
        expected = launcher(*arguments)
    operator = getattr(torch.ops.mpkernels, name)
    operator(*arguments)  # plans
    assert follow_plans(True)
    with emulation.recorded() as from_cpp, torch.no_grad():
        actual = operator(*arguments)
    assert formats(actual) == formats(expected), (formats(actual), formats(expected))
    places, found = _Places(given, expected), _Places(given, actual)
    named = _named(by_triton, places), _named(from_cpp, found)
    assert named[0] == named[1], f"{name}: {named[1]} is not {named[0]}"
    _check_scratch(kept, places.scratch, found.scratch)
    for one, other in zip(by_triton, from_cpp):
        for q, address in enumerate(one.values):
            if address in kept.copies and address in places.scratch:
                assert one.contents[q] == other.contents[q], f"{name}: a copy of other elements"
    return len(by_triton)


def _check_scratch(kept: _Kept, expected: list[int], found: list[int]) -> None:
    """No two buffers of a plan overlap, given how large Triton's launcher makes them."""
    sizes = {a: b - a for a, b in map(_span, kept.tensors)}
    ends = sorted((f, f + sizes[e]) for e, f in zip(expected, found))
    assert all(end <= begin for (_, end), (begin, _) in zip(ends, ends[1:])), ends
