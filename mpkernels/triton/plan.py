"""How a call of an operator is launched from C++, as a list of integers.

C++ knows nothing of the launch rule (csrc/launches/). For a call of new sizes, strides, dtypes,
alignment, Nones or device it asks here. The operator's launcher then runs with stand-ins for the
tensors, and what it allocates, copies and launches is the plan. A new batch size takes a plan and
no compilation, unless Triton specialises for it.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkernels.ops.internals import tensors_of
from mpkernels.triton.launch import on_device_of
from mpkernels.triton.launching import planned_by
from mpkernels.triton.standin import Copy, NotPlanned, Sketch, Standin, covers

# Torch's numbers for dtypes, as its C interface has them.
DTYPES = {5: torch.float16, 6: torch.float32, 7: torch.float64, 15: torch.bfloat16}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_DEVICES = {0: "cpu", 1: "cuda"}
# Of csrc/launches/plan.h.
_ARGUMENT, _OUTPUT, _SCRATCH = range(3)
_COPY, _LAUNCH = range(2)
_VALUE, _ADDRESS = range(2)
_SCRATCH_ALIGNMENT = 256
_MOST_SHARED = 228 * 1024
_BYTES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "b8": 1, "b16": 2, "b32": 4, "b64": 8}
# Compiled kernels stay loaded as long as a plan may launch them: for good.
_loaded: dict[int, Any] = {}
# One thread plans at a time: Triton compiles and loads as if there were no other.
_planning = threading.Lock()
# What Triton adds to a kernel's parameters: two addresses of memory of its own.
_MOST_ADDED = 2


class Launch(NamedTuple):
    """A compiled kernel and what it is launched with, in the order of its parameters."""

    kernel: Any
    grid: tuple[int, ...]  # of three
    parameters: list[Any]  # integers and stand-ins


def parameter_sizes(ptx: str) -> list[int]:
    """Bytes of each parameter of a kernel, by its machine code."""
    head = ptx[ptx.index(".entry") :]
    declared = re.findall(r"\.param\s+\.(\w+)", head[: head.index(")")])
    try:
        return [_BYTES[kind] for kind in declared]
    except KeyError as error:
        raise NotPlanned(f"a parameter of type {error}") from None


def _flat(signature: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """Type and value of each of an argument's parts that the machine code has a parameter for."""
    if isinstance(signature, tuple):
        for part, each in zip(signature, value, strict=True):
            yield from _flat(part, each)
    elif signature != "constexpr":
        yield signature, value


def parameters_of(compiled: Any, named: dict[str, Any]) -> list[Any]:
    """What a compiled kernel takes of the arguments of its function, by their names."""
    sizes = parameter_sizes(compiled.asm["ptx"])
    parameters: list[Any] = []
    for name, signature in compiled.src.signature.items():
        for kind, value in _flat(signature, named.get(name)):
            size = sizes[len(parameters)] if len(parameters) < len(sizes) else 0
            if kind.startswith("*"):
                fits = isinstance(value, Standin) and size == 8
            else:  # C++ passes eight bytes, of which a kernel reads the first, its own
                fits = type(value) in (int, bool) and kind in (f"i{8 * size}", "i1")
            if not fits:
                raise NotPlanned(f"the parameter {name} is a {kind} of {size} bytes")
            parameters.append(value)
    added = sizes[len(parameters) :]  # null, since ours have none
    if len(added) > _MOST_ADDED or any(size != 8 for size in added):
        raise NotPlanned("there are parameters that its arguments do not account for")
    return parameters + [0] * (len(sizes) - len(parameters))


def _why_not(compiled: Any) -> str | None:
    """Why a compiled kernel cannot be launched from C++, or None."""
    metadata = compiled.metadata
    if metadata.target.backend != "cuda":
        return f"it is compiled for {metadata.target.backend}"
    if getattr(metadata, "instrumentation_mode", ""):
        return "it is instrumented"
    if metadata.shared > _MOST_SHARED:
        return "it needs a setting for so much shared memory"
    if metadata.num_ctas != 1 or metadata.launch_cooperative_grid:
        return "its blocks depend on each other"
    if metadata.global_scratch_size or getattr(metadata, "profile_scratch_size", 0):
        return "it needs memory of Triton's"
    return None


class CannotLoad(RuntimeError):
    """A kernel would have to be loaded, which a CUDA graph cannot capture."""

    def __init__(self, kernel: str) -> None:
        super().__init__(
            f"mpkernels: {kernel} has to be loaded, which a CUDA graph cannot capture: "
            "run the same shapes once before the capture"
        )


class Planner(Sketch):
    """Takes the place of the launches of one call."""

    def __init__(self, may_load: bool) -> None:
        super().__init__()
        self._may_load = may_load

    def launch(self, kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        """As `kernel[grid]`, but compiles and loads the kernel only."""

        def note(*arguments: Any, **constants: Any) -> None:
            compiled = kernel.warmup(*arguments, grid=grid, **constants)
            if compiled is None:
                raise NotPlanned("Triton compiled nothing")
            if reason := _why_not(compiled):
                raise NotPlanned(reason)
            if 0 in grid:
                return
            if compiled.function is None:
                if not self._may_load:
                    raise CannotLoad(kernel.__name__)
                compiled._init_handles()
            named = {**dict(zip(kernel.arg_names, arguments)), **constants}
            extents = (*grid, 1, 1)[:3]
            self.steps.append(Launch(compiled, extents, parameters_of(compiled, named)))

        return note


def _read(kinds: Sequence[str], call: Sequence[int], sketch: Sketch) -> list[Any]:
    """The arguments of a call (csrc/launches/call.h) as stand-ins and numbers."""
    left, devices = iter(call), set()

    def tensor() -> Standin | None:
        code = next(left)
        if code < 0:
            sketch.skip()
            return None
        device, index, aligned, dims = itertools.islice(left, 4)
        shape, stride = (list(itertools.islice(left, dims)) for _ in range(2))
        where = _DEVICES[device]
        if code not in DTYPES:
            raise NotPlanned("a dtype that no kernel takes")
        on = torch.device(where, index) if where == "cuda" else torch.device(where)
        devices.add(on)
        if len(devices) > 1:
            raise ValueError("tensors must be on one device")
        return sketch.argument(shape, stride, DTYPES[code], on, bool(aligned))

    def value(kind: str) -> Any:
        if kind == "Tensor":
            return tensor()
        if kind in ("Tensor[]", "Tensor?[]"):
            return [tensor() for _ in range(next(left))]
        return bool(next(left)) if kind == "bool" else next(left)

    return [value(kind) for kind in kinds]


def _format(t: Tensor) -> list[int]:
    return [_CODES[t.dtype], t.dtype.itemsize, t.dim(), *t.shape, *t.stride()]


def _said(planner: Planner, outputs: Sequence[Any]) -> list[int]:
    """The plan as C++ reads it (csrc/launches/plan.cpp)."""
    output_of: dict[int, int] = {}
    for q, t in enumerate(outputs):
        is_argument, number, _ = planner.place(t)
        if is_argument or number in output_of or not covers(t.meta):
            raise NotPlanned("an output that is no memory of its own")
        output_of[number] = q
    offsets, scratch = {}, 0
    for number, meta in enumerate(planner.allocated):
        if number not in output_of:
            offsets[number] = scratch
            size = meta.untyped_storage().nbytes()
            scratch += -(-size // _SCRATCH_ALIGNMENT) * _SCRATCH_ALIGNMENT

    def place(t: Standin) -> list[int]:
        is_argument, number, offset = planner.place(t)
        if is_argument:
            return [_ARGUMENT, number, offset]
        if number in output_of:
            return [_OUTPUT, output_of[number], offset]
        return [_SCRATCH, 0, offsets[number] + offset]

    said = [len(outputs), *(part for t in outputs for part in _format(t.meta))]
    said += [scratch, len(planner.steps)]
    for step in planner.steps:
        if isinstance(step, Copy):
            said += [_COPY, *place(step.to), *place(step.source)]
            said += [*_format(step.to.meta), *_format(step.source.meta)]
            continue
        metadata, function = step.kernel.metadata, step.kernel.function
        _loaded[function] = step.kernel
        said += [_LAUNCH, function, *step.grid, 32 * metadata.num_warps, metadata.shared]
        said += [int(getattr(metadata, "launch_pdl", False)), len(step.parameters)]
        for value in step.parameters:
            said += [_ADDRESS, *place(value)] if isinstance(value, Standin) else [_VALUE, value]
    return said


def plan(
    kinds: Sequence[str],
    call: Sequence[int],
    check: Callable[..., None],
    launcher: Callable[..., Sequence[Any]],
) -> list[int]:
    """The plan of a call.

    Args:
        kinds: types of the operator's arguments, by its schema.
        call: sizes and such of all arguments, as csrc/launches/call.h says.
        check: (*arguments), raises unless they fit.
        launcher: the operator's kernel in Triton.

    Raises:
        NotPlanned: the launcher does more than C++ can repeat.
        CannotLoad: while a CUDA graph is captured.
        TypeError, ValueError: of the check.
    """
    only_shapes = _read(kinds, call, Sketch())
    check(*only_shapes)
    first = tensors_of(only_shapes)[0]
    with _planning, torch.no_grad(), on_device_of(first):
        planner = Planner(not captures(first))
        arguments = _read(kinds, call, planner)
        with planned_by(planner):
            outputs = launcher(*arguments)
    return _said(planner, outputs)


def captures(x: Tensor) -> bool:
    """Whether a CUDA graph is captured on the device of x."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()
