"""Which kernel serves an operator: by the device of its tensors, or by the backend in force.

CPU: the compiled extension. CUDA (NVIDIA and AMD): Triton, whose launcher calls CUDA C++ where
`tune` found that faster. Anything else, and whatever could not be built: the eager definition.
Every kernel is registered once at its dispatch key; where a backend is forced, it gives way.

`why_not` and `kernel_of` are the one table of that. The dispatcher, `use_backend`, `explain`, the
self-test and the report ask it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, get_args

import torch
from torch import Tensor

from mpkernels.ops import below, lazy, native, onchip  # noqa: F401  (lazy registers itself)
from mpkernels.ops.internals import has_kernel, tensors_of
from mpkernels.ops.operator import OPERATORS
from mpkernels.ops.schema import KINDS, SCHEMAS, library
from mpkernels.ops.switch import Backend, Choice, active_backend

_log = logging.getLogger("mpkernels")
BACKENDS: tuple[Backend, ...] = get_args(Backend)
DEVICES = ("cpu", "cuda")
# What "auto" takes where it can.
_BY_DEVICE: dict[str, Backend] = {"cpu": "native", "cuda": "triton"}


def why_no_gpu() -> str | None:
    """Why torch reaches no GPU here, or None."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is not built for GPUs"
    return None if torch.cuda.is_available() else "torch finds no GPU"


@cache
def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def why_no_triton() -> str | None:
    """Why Triton cannot be imported here, or None."""
    return None if _exists("triton") else "the package triton is not installed"


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
    if not _exists("numpy"):
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


def _why_no_triton_on(device: str) -> str | None:
    reason = why_no_triton()
    if reason is None and device == "cpu":
        if triton_interprets():
            return why_no_interpreter()
        return "Triton needs a GPU, or TRITON_INTERPRET=1 set before triton is imported"
    return reason


def _stem(operator: str) -> str:
    """The file that holds the kernels of an operator, as of its backward."""
    return operator.removesuffix("_backward")


def why_not(operator: str, backend: Backend, device: str) -> str | None:
    """Why a backend has no kernel of an operator for such tensors, GPU present or not, or None."""
    if backend == "eager":
        return None
    if device not in DEVICES:
        return f"no kernel exists for {device} tensors"
    if backend == "triton":
        reason = _why_no_triton_on(device)
        if reason is None and not _exists(f"mpkernels.triton.{_stem(operator)}"):
            return f"Triton has no {operator} yet"
        return reason
    reason = native.why_no_cpu if device == "cpu" else native.why_no_cuda
    compiled = operator if device == "cpu" else f"{operator}_cuda"
    if reason is None and not has_kernel(compiled, device.upper()):
        return f"the {'C++' if device == 'cpu' else 'CUDA C++'} library has no {operator} yet"
    return reason


def chosen(operator: str, device: str) -> tuple[Backend, str | None]:
    """The backend that serves such tensors where none is forced, and why no faster one does."""
    if device not in DEVICES:
        return "eager", f"no kernel exists for {device} tensors; only CPU and CUDA have one"
    backend = _BY_DEVICE[device]
    reason = why_not(operator, backend, device)
    return ("eager", f"{backend} cannot run: {reason}") if reason else (backend, None)


def why_not_here(backend: Backend, device: str) -> str | None:
    """Why a backend runs no operator on a device of this machine, or None."""
    reasons = [why_not(operator, backend, device) for operator in OPERATORS]
    reason = None if None in reasons else reasons[0]
    return reason or (why_no_gpu() if device == "cuda" else None)


def kernel_of(operator: str, backend: Backend, device: str) -> Callable[..., list[Tensor]]:
    """A kernel that Python calls: all but those of the CPU library. Imports triton where needed."""
    if backend == "eager":
        return OPERATORS[operator].run_eager
    module: Any = onchip
    if backend == "triton":
        module = importlib.import_module(f"mpkernels.triton.{_stem(operator)}")
    return getattr(module, operator)  # type: ignore[no-any-return]


def _why_refused(operator: str, backend: Choice, device: str) -> str | None:
    """What a call says where a forced backend cannot run it, or None."""
    if backend == "auto" or (reason := why_not(operator, backend, device)) is None:
        return None
    where = device.upper() if device in DEVICES else device
    return f"mpkernels.{operator}: use_backend({backend!r}) cannot run on {where} tensors: {reason}"


def _by_python(operator: str, device: str | None = None) -> Callable[..., list[Tensor]]:
    """The kernel of an operator that Python runs, for one type of device or for any."""

    def kernel(*arguments: Any) -> list[Tensor]:
        backend, here = active_backend(), device or tensors_of(arguments)[0].device.type
        if refusal := _why_refused(operator, backend, here):
            raise RuntimeError(refusal)
        if backend == "auto":
            backend, reason = chosen(operator, here)
            if reason and here == "cuda":
                warnings.warn(
                    f"mpkernels runs on its eager definition on CUDA tensors: {reason}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        # Meanwhile another thread may have taken back the force for which C++ left this to Python.
        in_cpp = (backend, here) == ("native", "cpu")
        return kernel_of(operator, "eager" if in_cpp else backend, here)(*arguments)

    return kernel


# What C++ asks while a backend is forced (csrc/forced.h), and where it knows no launch.
def _served_by(operator: str, device: str) -> str:
    """Who runs the operator: the C++ that asks ("here"), Python, or behind "!" why neither does."""
    backend = active_backend()
    if backend in ("auto", _BY_DEVICE[device]):
        return "here"
    refusal = _why_refused(operator, backend, device)
    return f"!{refusal}" if refusal else "python"


def _for_compiled(operator: str) -> Callable[..., list[Tensor]]:
    """The same kernel for a caller that sees of an error only that there is one."""
    run, check = _by_python(operator), OPERATORS[operator].check

    def kernel(*arguments: Any) -> list[Tensor]:
        below.remember(None)
        try:
            check(*arguments)
            return run(*arguments)
        except (Exception, KeyboardInterrupt) as error:
            below.remember(error)
            return []

    return kernel


def _plan(operator: str, call: list[int]) -> list[int]:
    """The plan of a call, nothing if Python is to run all such calls, or -1 if there is none yet.

    Python then runs it, or raises what is wrong. After -2 `error_of_python` says why nobody can.
    """
    try:
        if why_no_triton() or triton_interprets():
            return []
        planning: Any = importlib.import_module("mpkernels.triton.plan")
        launcher = kernel_of(operator, "triton", "cuda")
        try:
            return planning.plan(KINDS[operator], call, OPERATORS[operator].check, launcher)  # type: ignore[no-any-return]
        except planning.NotPlanned:
            return []
        except planning.CannotLoad as error:
            below.remember(error)
            return [-2]
    except KeyboardInterrupt as error:
        below.remember(error)
        return [-2]
    except Exception:
        _log.debug("no plan of %s", operator, exc_info=True)
        return [-1]


for _name in SCHEMAS:
    importlib.import_module(f"mpkernels.ops.{_stem(_name)}")  # declares it
for _name in OPERATORS:
    library.impl(_name, _by_python(_name), "CompositeExplicitAutograd")
    if native.why_no_cpu is not None:  # else C++ launches, and asks Python what it does not know
        library.impl(_name, _by_python(_name, "cuda"), "CUDA")
    else:
        library.impl(f"{_name}_by_python", _for_compiled(_name), "CompositeExplicitAutograd")
if native.why_no_cpu is None:
    for _asked, _answer in (
        ("plan", _plan),
        ("served_by", _served_by),
        ("error_of_python", below.text),
    ):
        library.impl(_asked, _answer, "CompositeExplicitAutograd")
