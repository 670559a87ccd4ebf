"""Which kernels a router, or every router of a model, would run, and why not faster ones."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mpkernels import eager, modules
from mpkernels.eager.arguments import check_dtype
from mpkernels.eager.router import Router, as_paths
from mpkernels.fold import why_not_folded
from mpkernels.ops.backend import DEVICES, chosen, why_no_gpu, why_not
from mpkernels.ops.batching import why_not_served
from mpkernels.ops.chip import ASSUMED as CHIP
from mpkernels.ops.chip import chip_of
from mpkernels.ops.internals import without_transforms
from mpkernels.ops.layout import empty_map, geometry_of, is_channels_last, strides_in_place
from mpkernels.ops.onchip import OnChip, forced_on_chip
from mpkernels.ops.switch import Backend, active_backend
from mpkernels.triton.launch import ASSUMED as CARD
from mpkernels.triton.launch import Walk, cross_connect_launch, kept_elements, most_kept
from mpkernels.triton.tuned import launch_for

_KINDS = ("CrossConnect", "CrossStitch", "CrossPredictConv2d", "CrossPredictLinear")
_FUSED: dict[Any, Any] = {getattr(eager, kind): getattr(modules, kind) for kind in _KINDS}
_ROUTERS, _KERNELS = tuple(_FUSED), tuple(_FUSED.values())
_PARAMETERS = ("weight", "bias", "w1", "b1", "w2", "b2", "alpha")


@dataclass(frozen=True)
class Kernel:
    """One operator of a router's forward or backward, and what serves it."""

    operator: str
    backend: Backend
    # The instruction set on a CPU. Of cross_connect on a GPU by Triton "resident", "streamed" or
    # "split", by CUDA C++ "shared" or "cluster".
    method: str | None
    # Below, all gradients are wanted, and come dense. Bytes if every map is read and written once:
    floor: int
    copies: int  # of maps that cannot be read or written where they lie

    def __str__(self) -> str:
        backend = "CUDA C++" if self.method in ("shared", "cluster") else self.backend
        parts = [f"{self.operator}: {backend}" + (f" ({self.method})" if self.method else "")]
        parts += [f"floor {_readable(self.floor)}"] if self.floor else []
        parts += [f"copies {self.copies}"] if self.copies else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Explanation:
    """The answer of `explain` for a router; `str` of it is meant to be read."""

    router: str
    device: str
    dtype: torch.dtype  # of the maps, under autocast its own
    kernels: tuple[Kernel, ...]  # of the forward, then of the backward, in order
    notes: tuple[str, ...]  # why not faster ones

    def __str__(self) -> str:
        lines = [*map(str, self.kernels), *(f"note: {note}" for note in self.notes)]
        return "\n  ".join([f"{self.router} on {self.device} in {self.dtype}", *lines])


class Explanations(dict[str, Explanation]):
    """The answer of `explain` for a model, by the names of its routers; `print` it."""

    def __str__(self) -> str:
        alike: dict[Explanation, list[str]] = {}
        for name, explanation in self.items():
            alike.setdefault(explanation, []).append(name)
        return "\n".join(f"{', '.join(names)}: {one}" for one, names in alike.items())


@overload
def explain(model: Router, inputs: Any, device: str | None = None) -> Explanation: ...


@overload
def explain(
    model: nn.Module, inputs: Any, device: str | None = None
) -> Explanation | Explanations: ...


def explain(model: nn.Module, inputs: Any, device: str | None = None) -> Explanation | Explanations:
    """Tells which kernels `model(inputs)` would run, without running it.

    A copy of a model runs forward once on meta tensors, which have no values: statistics and
    random numbers stay as they are. Its hooks see meta tensors too. A router is not called.

    Args:
        model: a CrossConnect, CrossStitch, CrossPredictConv2d or CrossPredictLinear, fused or
            eager, or a module that holds some.
        inputs: of a router, the paths that it takes: m maps [B, C, *spatial] or vectors [B, C]. Of
            another model, its argument, or a tuple of them. Only shapes, strides and dtypes are
            read, so meta and fake tensors work too.
        device: asks about another type of device than that of the tensors: "cpu" or "cuda".

    Returns:
        Of a router its kernels, the least bytes and the copies of each, and why no faster one
        runs; of another model these by name for each router that runs, numbered if calls differ.

    Raises:
        TypeError: the model holds no router, or a dtype does not fit.
        ValueError: a shape does not fit a router; the message names it.

    Example:
        >>> router, xs = CrossConnect(32, inputs=2, outputs=2), [torch.randn(8, 32, 16, 16)] * 2
        >>> explain(router, xs, device="cuda").kernels[0].floor == (2 + 2) * 4 * 8 * 32 * 16 * 16
        True
    """
    routers = {name: m for name, m in model.named_modules() if isinstance(m, _ROUTERS)}
    if not routers:
        raise TypeError(f"explain: model must hold a router, got {type(model).__name__}")
    if "" in routers:
        return _explain_router(model, inputs, device)
    answers, device = Explanations(), device or next(model.parameters()).device.type
    for name, xs in _calls(model, inputs, device):
        answer, key, number = _explain_router(routers[name], xs, device), name, 1
        while answers.setdefault(key, answer) != answer:
            number += 1
            key = f"{name} #{number}"
    return answers


class _Watch(TorchFunctionMode):
    """Copies lose their values, and look as on the device; records our operators."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.calls = device, list[Any]()

    def __torch_function__(self, call: Any, types: Any, args: Any = (), named: Any = None) -> Any:
        if call in (Tensor.__deepcopy__, Tensor.clone) and not args[0].is_meta:
            return _meta(args[0])
        if call == Tensor.is_cpu.__get__:  # type: ignore[attr-defined]
            return self.device == "cpu"
        results = call(*args, **(named or {}))
        if getattr(call, "namespace", None) == "mpkernels":
            self.calls.append((call.overloadpacket.__name__, args, results))
        if call is torch.conv2d and results.dim() == 4:
            # In channels_last if maps or weights do; cuDNN has none in float64.
            able = (self.device, results.dtype) != ("cuda", torch.float64)
            return empty_map(results, able and any(map(is_channels_last, args[:2])))
        return results


def _meta(t: Tensor) -> Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")


def _calls(model: nn.Module, inputs: Any, device: str) -> list[tuple[str, Any]]:
    """The name and the paths of every router that a copy of the model calls, without values."""
    calls: list[tuple[str, Any]] = []

    def record(name: str, router: nn.Module, args: Any, named: Any) -> None:
        calls.append((name, args[0] if args else named["xs"]))

    as_written = torch.compiler.set_stance("force_eager")
    with torch.no_grad(), torch.device("meta"), as_written, _Watch(device):
        model, inputs = copy.deepcopy((model, inputs))
        for name, module in model.named_modules():
            if isinstance(module, _ROUTERS):
                module.register_forward_pre_hook(partial(record, name), with_kwargs=True)
        model(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    return calls


def _operators(router: Any, paths: list[Tensor], device: str) -> list[Any]:
    """The operators that a fused router with these sizes runs, with arguments and results."""
    casts = device in DEVICES and paths[0].itemsize < 8 and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if casts else paths[0].dtype
    values = {name: getattr(router, name, None) for name in _PARAMETERS}
    own = {name: t if t is None else _meta(t) for name, t in values.items()}
    kind = next(fused for plain, fused in _FUSED.items() if isinstance(router, plain))
    other = kind.__new__(kind)
    other.__dict__.update(vars(router), _parameters=own, _modules={"norms": nn.ModuleList()})
    if own["weight"] is not None:
        check_dtype(paths[0], router.weight, device)
        own["weight"] = own["weight"].to(dtype)
    with without_transforms(), torch.no_grad(), _Watch(device) as watch:
        other._route([_meta(x).to(dtype) for x in paths])
    return list(watch.calls)


def _explain_router(router: Any, xs: Any, device: str | None) -> Explanation:
    paths = as_paths(xs, router)
    router._check_paths(paths)
    device = device or paths[0].device.type
    rows: list[tuple[str, Any, int]] = []
    for at, (name, args, results) in enumerate(_operators(router, paths, device)):
        read, written = (sum(t.nbytes for t in ts) for ts in (args[0], _written(name, results)))
        backward = 2 * read + written if written else 0
        rows[at:at] = [(name, args, read + written), (f"{name}_backward", args, backward)]
    backends, notes = _served(router, [name for name, *_ in rows], device)
    kernels = []
    for (name, args, floor), backend in zip(rows, backends):
        method, why = _method(name, backend, args, device)
        copies = _copies(name, backend, args[0])
        kernels.append(Kernel(name, backend, method, floor, len(copies)))
        notes += [*why, *copies]
    if isinstance(router, _KERNELS) and getattr(router, "norms", None):
        reason = why_not_folded(router)
        how = f"not folded: {reason}" if reason else f"folded into {rows[len(rows) // 2 - 1][0]}"
        notes.append(f"batch norms are {how}")
    if device == "cuda" and (reason := why_no_gpu()):
        notes.append(f"{reason}: an H100 is assumed")
    dtype = rows[0][1][0][0].dtype
    return Explanation(type(router).__name__, device, dtype, tuple(kernels), tuple(notes))


def _written(operator: str, results: Any) -> list[Tensor]:
    """The maps among an operator's results; predictions are such, since a backward reads them."""
    if operator == "cross_predict":
        return [*results[:-2], results[-1]]
    return list({"gate": (), "cross_connect": results[:-2]}.get(operator, results))


def _served(
    router: nn.Module, operators: list[str], device: str
) -> tuple[list[Backend], list[str]]:
    """The backend of each operator on a type of device, and why these are no faster ones."""
    if not isinstance(router, _KERNELS):
        how = "swaps in the fused one" if type(router) in _FUSED else "leaves subclasses alone"
        return ["eager"] * len(operators), [f"the router is eager; mpkernels.fuse(model) {how}"]
    if why := why_not_served(list(router.parameters())):
        return ["eager"] * len(operators), [f"the eager definition serves: {why}"]
    forced = active_backend()
    notes = [] if forced == "auto" else [f"use_backend({forced!r}) is in force"]
    what = "the eager definition serves" if forced == "auto" else "RuntimeError from"
    served, reasons = [], dict[str | None, list[str]]()
    for name in operators:
        own = chosen(name, device) if forced == "auto" else (forced, why_not(name, forced, device))
        served.append(own[0])
        reasons.setdefault(own[1], []).append(name)
    notes += [f"{what} {' and '.join(names)}: {why}" for why, names in reasons.items() if why]
    return served, notes


def _method(
    operator: str, backend: Backend, args: Any, device: str
) -> tuple[str | None, list[str]]:
    """How the kernel runs, and why in no simpler way."""
    if backend == "eager" or why_not(operator, backend, device):
        return None, []
    if (backend, device) == ("native", "cpu"):
        return str(torch.ops.mpkernels.instruction_set("")), []
    if not operator.startswith("cross_connect"):
        return None, []
    xs, (w1, _, w2, _), _ = args
    geometry, inputs, outputs, hidden = geometry_of(xs[0]), len(xs), w2.shape[1], w1.shape[1]
    itemsize, backward = xs[0].itemsize, operator.endswith("_backward")
    sizes = geometry, inputs, outputs, hidden, itemsize
    assumed = device != "cuda" or why_no_gpu()
    here = torch.device("cpu") if assumed else torch.device("cuda", torch.cuda.current_device())
    if backend == "native":
        found = forced_on_chip(*sizes, CHIP if assumed else chip_of(here), backward)
        if isinstance(found, OnChip):
            return found.method, []
        return None, [f"RuntimeError from {operator}: no shared memory keeps a sample: {found}"]
    launch = launch_for(*sizes, here, backward)
    if not isinstance(launch, Walk):
        return launch.method, []
    kept = outputs if backward else inputs
    elements, most = kept_elements(geometry, kept, itemsize), most_kept(geometry, itemsize)
    if elements > most:
        why = f"{kept} of its maps, padded, take {elements} registers, a block has {most}"
    elif isinstance(cross_connect_launch(*sizes, CARD, backward), Walk):
        why = f"w1, {inputs} x {hidden} x {geometry.channels}, does not fit beside the maps"
    else:
        why = "mpkernels.tune found that faster"
    return launch.method, [f"{operator} walks a sample twice: {why}"]


def _copies(operator: str, backend: Backend, maps: list[Tensor]) -> list[str]:
    """Why each copy is made of a map that the kernel cannot read or write where it lies."""
    # The gradient of gates reads no map, and Triton has that of cross_predict in parts only.
    none = ("gate_backward", backend), ("cross_predict_backward", "triton")
    if backend == "eager" or (operator, backend) in none:
        return []
    name, geometry, notes = "us" if "combine" in operator else "xs", geometry_of(maps[0]), []
    for i, x in enumerate(maps):
        if strides_in_place(x, geometry) is None:
            notes.append(f"{operator} reads a copy of {name}[{i}]: strides {tuple(x.stride())}")
        if operator.endswith("_backward") and strides_in_place(empty_map(x), geometry) is None:
            notes.append(f"{operator} copies the gradient of {name}[{i}]: not {name}[0]'s format")
    return notes


def _readable(count: int) -> str:
    power = min(max(count.bit_length() - 1, 0) // 10, 3)
    return f"{count / 2 ** (10 * power):.1f} {('B', 'KiB', 'MiB', 'GiB')[power]}"
