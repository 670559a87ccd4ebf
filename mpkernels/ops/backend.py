"""Which kernel serves an operator: by the device of its tensors, or by the backend in force.

CPU: the compiled extension. CUDA (NVIDIA and AMD): Triton, whose launcher calls CUDA C++ where
`tune` found that faster. Anything else, and whatever could not be built: the eager definition.
Every kernel is registered once at its dispatch key; where a backend is forced, it gives way.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from mpkernels.ops import combine, cross_connect, cross_predict, gate, mix, native, onchip, parts
from mpkernels.ops import lazy as lazy  # registers itself
from mpkernels.ops.autograd import nothing_above
from mpkernels.ops.internals import any_autocast, tensors_of
from mpkernels.ops.schema import OPERATORS, library
from mpkernels.ops.switch import active_backend

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
    "mix": onchip.mix,
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
    if operator == "cross_predict":  # of parts that it has
        return None
    if importlib.util.find_spec(f"mpkernels.triton.{operator}") is None:
        return f"Triton has no {operator} yet"
    return None


def _triton(name: str) -> Callable[..., Any]:
    # triton is imported at the first launch: neither it nor a GPU is needed to import mpkernels.
    def launch(*arguments: Any) -> Any:
        return getattr(_launchers(name), name)(*arguments)

    def launch_parts(*arguments: Any) -> Any:
        return getattr(parts, name)(_triton, *arguments)

    return launch_parts if name.startswith("cross_predict") else launch


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


def _why_no_triton_on_cpu(name: str) -> str | None:
    if reason := why_no_triton():
        return reason
    if triton_interprets():
        return why_no_interpreter() or _why_no_launcher(name)
    return "Triton needs a GPU, or TRITON_INTERPRET=1 set before triton is imported"


def why_refused(name: str, backend: str, device: str) -> str | None:
    """Why a forced backend cannot run an operator on a type of device, or None."""
    if backend in ("auto", "eager"):
        return None
    if device == "cpu":
        return native.why_no_cpu if backend == "native" else _why_no_triton_on_cpu(name)
    if device == "cuda":
        return why_no_native_on_cuda(name) if backend == "native" else why_no_triton()
    return f"no kernel exists for {device} tensors"


_ON_CUDA = {name: _triton_on_cuda(name) for name in OPERATORS}


def _by_python(name: str, device: str | None = None) -> Callable[..., Any]:
    """The kernel of an operator that Python runs, for one type of device or for any."""

    def kernel(*arguments: Any) -> Any:
        backend, here = active_backend(), device or tensors_of(arguments)[0].device.type
        if reason := why_refused(name, backend, here):
            raise RuntimeError(_refusal(name, backend, here, reason))
        if backend == "eager" or here not in ("cpu", "cuda"):
            return _EAGER[name](*arguments)
        if here == "cuda":
            return (_CUDA if backend == "native" else _ON_CUDA)[name](*arguments)
        return (_triton(name) if backend == "triton" else _EAGER[name])(*arguments)

    return kernel


def _refusal(name: str, backend: str, device: str, reason: str) -> str:
    where = device.upper() if device in ("cpu", "cuda") else device
    return f"mpkernels.{name}: use_backend({backend!r}) cannot run on {where} tensors: {reason}"


# The compiled CPU kernels call these while a backend is forced (csrc/cpu/switched.h).
_results = threading.local()


def _served_by(name: str) -> str:
    """Who runs the operator here: "native", "python", or behind "!" why neither does."""
    backend = active_backend()
    if backend in _COMPILED:
        return "native"
    reason = why_refused(name, backend, "cpu")
    return "!" + _refusal(name, backend, "cpu", reason) if reason else "python"


def _for_compiled(name: str) -> Callable[..., str]:
    run = _by_python(name)

    def kernel(*arguments: Any) -> str:
        try:
            results = run(*arguments)
        except Exception as error:
            return f"!{error}"
        _results.values = list(results) if isinstance(results, tuple) else [results]
        return "".join("T" if isinstance(value, Tensor) else "L" for value in _results.values)

    return kernel


def _fetch(at: int) -> Any:
    value, _results.values[at] = _results.values[at], None
    return value


_COMPILED = ("auto", "native")
_PLAIN = frozenset((Tensor, Parameter, type(None)))


def kernel_checks(tensors: Sequence[Any]) -> bool:
    """Whether a call with these arguments runs a kernel that refuses bad ones by itself.

    The compiled CPU kernels do, in less time than Python needs to look at one shape. Not under
    autocast, which casts the maps before the call.
    """
    if native.why_no_cpu is not None or any_autocast() or not nothing_above(tensors):
        return False
    if active_backend() not in _COMPILED:
        return False
    for t in tensors:  # noqa: SIM110  (a generator costs more than the loop)
        if type(t) not in _PLAIN or not (t is None or t.is_cpu):
            return False
    return True


for _name in OPERATORS:
    library.impl(_name, _by_python(_name), "CompositeExplicitAutograd")
    library.impl(_name, _by_python(_name, "cuda"), "CUDA")
    library.impl(f"{_name}_by_python", _for_compiled(_name), "CompositeExplicitAutograd")
    torch.library.register_fake(f"mpkernels::{_name}", _FAKE[_name], lib=library)
library.impl("served_by", _served_by, "CompositeExplicitAutograd")
for _name in ("list_of_python", "tensor_of_python"):
    library.impl(_name, _fetch, "CompositeExplicitAutograd")
