"""Which kernels the operators run: PyTorch's dispatcher is the switch, by device.

CPU: the compiled extension. CUDA (NVIDIA and AMD): Triton, whose launcher calls CUDA C++ where
`tune` found that faster. Anything else, and whatever could not be built: the eager definition.
`use_backend` registers other kernels at those dispatch keys.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from mpkernels.ops import combine, cross_connect, cross_predict, gate, mix, native, onchip
from mpkernels.ops.autograd import nothing_above
from mpkernels.ops.internals import any_autocast
from mpkernels.ops.schema import OPERATORS, library

BACKENDS = ("auto", "eager", "native", "triton")

_EAGER: dict[str, Callable[..., Any]] = {
    "cross_connect": cross_connect.run_eager,
    "cross_connect_backward": cross_connect.run_eager_backward,
    "gate": gate.run_eager,
    "gate_backward": gate.run_eager_backward,
    "mix": mix.run_eager,
    "mix_backward": mix.run_eager_backward,
    "combine": combine.run_eager,
    "combine_backward": combine.run_eager_backward,
    "cross_predict": cross_predict.run_eager,
    "cross_predict_backward": cross_predict.run_eager_backward,
}
_FAKE: dict[str, Callable[..., Any]] = {
    "cross_connect": cross_connect.fake,
    "cross_connect_backward": cross_connect.fake_backward,
    "gate": gate.fake,
    "gate_backward": gate.fake_backward,
    "mix": mix.fake,
    "mix_backward": mix.fake_backward,
    "combine": combine.fake,
    "combine_backward": combine.fake_backward,
    "cross_predict": cross_predict.fake,
    "cross_predict_backward": cross_predict.fake_backward,
}
_CUDA: dict[str, Callable[..., Any]] = {  # by C++
    "cross_connect": onchip.cross_connect,
    "cross_connect_backward": onchip.cross_connect_backward,
    "mix": lambda *arguments: torch.ops.mpkernels.mix_cuda(*arguments),
}


def why_no_triton() -> str | None:
    """Why Triton cannot be imported here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return None


def triton_interprets() -> bool:
    """Whether Triton's kernels run in its interpreter, which takes CPU tensors."""
    import triton

    return bool(triton.knobs.runtime.interpret)


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def why_no_interpreter() -> str | None:
    """Why Triton's interpreter, asked for or not, cannot run the kernels here, or None."""
    if reason := why_no_triton():
        return reason
    if importlib.util.find_spec("numpy") is None:
        return "Triton's interpreter needs numpy, which is not installed"
    import numpy
    import triton

    # It takes arrays of one element for integers, which numpy allowed until then.
    if _release(triton.__version__) < (3, 7) and _release(numpy.__version__) >= (2, 4):
        return (
            f"Triton {triton.__version__}'s interpreter needs numpy below 2.4, "
            f"found {numpy.__version__}"
        )
    return None


def _launchers(name: str) -> ModuleType:
    return importlib.import_module(f"mpkernels.triton.{name.removesuffix('_backward')}")


def _why_no_launcher(name: str) -> str | None:
    """Why Triton has no kernel for an operator, or None."""
    operator = name.removesuffix("_backward")
    if importlib.util.find_spec(f"mpkernels.triton.{operator}") is None:
        return f"Triton has no {operator} yet"
    return None


def _triton(name: str) -> Callable[..., Any]:
    # triton is imported at the first launch: neither it nor a GPU is needed to import mpkernels.
    def launch(*arguments: Any) -> Any:
        return getattr(_launchers(name), name)(*arguments)

    return launch


def _refuse(backend: str, device: str, reason: str) -> Callable[[str], Callable[..., Any]]:
    def kernel_for(name: str) -> Callable[..., Any]:
        def kernel(*arguments: Any) -> Any:
            raise RuntimeError(
                f"mpkernels.{name}: use_backend({backend!r}) cannot run on {device} tensors: "
                f"{reason}"
            )

        return kernel

    return kernel_for


def _triton_on_cuda(name: str) -> Callable[..., Any]:
    reason = why_no_triton() or _why_no_launcher(name)
    if reason is None:
        return _triton(name)

    def fallback(*arguments: Any) -> Any:
        warnings.warn(
            f"mpkernels runs on its eager definition on CUDA tensors: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        return _EAGER[name](*arguments)

    return fallback


def why_no_native_on_cuda(name: str) -> str | None:
    """Why CUDA C++ runs no operator of this name here, or None."""
    if native.why_no_cuda is None and name not in _CUDA:
        return f"the CUDA C++ library has no {name} yet"
    return native.why_no_cuda


def _native_on_cuda(name: str) -> Callable[..., Any]:
    reason = why_no_native_on_cuda(name)
    return _CUDA[name] if reason is None else _refuse("native", "CUDA", reason)(name)


def _triton_on_cpu(name: str) -> Callable[..., Any]:
    reason = why_no_triton()
    if reason is None and triton_interprets():
        reason = why_no_interpreter() or _why_no_launcher(name)
        return _refuse("triton", "CPU", reason)(name) if reason else _triton(name)
    reason = reason or "Triton needs a GPU, or TRITON_INTERPRET=1 set before triton is imported"
    return _refuse("triton", "CPU", reason)(name)


def _overrides(backend: str) -> list[tuple[str, Callable[[str], Callable[..., Any]]]]:
    """Dispatch keys whose kernels differ from those of "auto"."""
    if backend == "eager":
        return [(key, _EAGER.__getitem__) for key in ("CPU", "CUDA")]
    if backend == "triton":
        cuda = why_no_triton()
        refused = [("CUDA", _refuse("triton", "CUDA", cuda))] if cuda else []
        return [("CPU", _triton_on_cpu), *refused]
    if backend == "native":
        cpu = native.why_no_cpu
        refused = [("CPU", _refuse("native", "CPU", cpu))] if cpu else []
        return [("CUDA", _native_on_cuda), *refused]
    return []


_forced: torch.library.Library | None = None
_active = "auto"
_checks_on_cpu = native.why_no_cpu is None


def _install(backend: str) -> None:
    global _forced, _active, _checks_on_cpu
    if _forced is not None:
        _forced._destroy()
        _forced = None
    kernels = _overrides(backend)
    if kernels:
        _forced = torch.library.Library("mpkernels", "IMPL")
        with warnings.catch_warnings():
            # torch 2.11 warns of every override; here it is the purpose.
            warnings.filterwarnings("ignore", message=".*[Oo]verrid", category=UserWarning)
            for key, kernel_for in kernels:
                for name in OPERATORS:
                    _forced.impl(name, kernel_for(name), key, allow_override=True)
    _active = backend
    _checks_on_cpu = backend in ("auto", "native") and native.why_no_cpu is None


def active_backend() -> str:
    """The backend in force: "auto" unless `use_backend` says otherwise."""
    return _active


def compiled_on_cpu() -> bool:
    """Whether CPU tensors meet the compiled kernels now."""
    return _checks_on_cpu


_PLAIN = frozenset((Tensor, Parameter, type(None)))


def kernel_checks(tensors: Sequence[Any]) -> bool:
    """Whether a call with these arguments runs a kernel that refuses bad ones by itself.

    The compiled CPU kernels do, in less time than Python needs to look at one shape. Autocast
    changes dtypes before the call, so it is no case for this.
    """
    if not _checks_on_cpu or any_autocast() or not nothing_above(tensors):
        return False
    for t in tensors:  # noqa: SIM110  (a generator costs more than the loop)
        if type(t) not in _PLAIN or not (t is None or t.is_cpu):
            return False
    return True


class use_backend:  # noqa: N801  (reads as a verb, like torch.no_grad)
    """Forces the backend of every operator in this process, from the call on.

    As a context manager it puts the previous backend back at the end. A backend that cannot run
    for the tensors it is given raises RuntimeError and says why; it never falls back.

    Args:
        name: "auto" (by device: compiled extension, Triton, else eager), "eager" (the definition),
            "native" (C++ on CPU, CUDA C++ on NVIDIA GPUs) or "triton" (GPUs; CPU tensors in
            Triton's interpreter).

    Raises:
        ValueError: the name is none of these.

    Example:
        >>> with use_backend("eager"):
        ...     ys = functional.mix([torch.ones(2, 3)], torch.ones(2, 1, 1))
    """

    def __init__(self, name: str) -> None:
        if name not in BACKENDS:
            raise ValueError(
                f"use_backend: name must be one of {', '.join(BACKENDS)}, got {name!r}"
            )
        self._previous = _active
        _install(name)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _install(self._previous)


for _name in OPERATORS:
    library.impl(_name, _EAGER[_name], "CompositeExplicitAutograd")
    library.impl(_name, _triton_on_cuda(_name), "CUDA")
    torch.library.register_fake(f"mpkernels::{_name}", _FAKE[_name], lib=library)
