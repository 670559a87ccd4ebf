"""Which backend is in force where: in the process, and in a thread within a context.

Kernels are registered once for good; those that may have to give way ask `active_backend` as they
run. A switch therefore changes nothing that another thread is running.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal, get_args

import torch

from mpkernels.ops import native

Backend = Literal["eager", "native", "triton"]
Choice = Literal["auto", Backend]
CHOICES: tuple[Choice, ...] = get_args(Choice)

_order = itertools.count()


class _Setting:
    """One use of `use_backend`, in the list of the place where it is in force."""

    def __init__(self, name: Choice, place: list[_Setting]) -> None:
        self.name, self.order, self.place = name, next(_order), place


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.entered: list[_Setting] = []  # contexts; the last is in force
        self.waiting: list[_Setting] = []  # calls of which nobody knows yet whether `with` follows


_lock = threading.RLock()  # a call may be dropped, and so settled, wherever garbage is collected
_process: list[_Setting] = []  # the last is in force; those before it may be given back to
_process.append(_Setting("auto", _process))
_own = _OfThread()
_forced: set[_Setting] = set()  # all in force anywhere that are not "auto"
# Compiled code asks who runs only while something is forced somewhere, of which it is told.
_told: list[Callable[[bool], Any]] = []


def active_backend() -> Choice:
    """The backend in force in this thread: "auto" unless `use_backend` says otherwise."""
    if not _forced:
        return "auto"
    with _lock:
        for setting in [*_own.waiting]:  # the thread went on without `with`
            _settle(setting)
        return (_own.entered or _process)[-1].name


def _put(name: Choice, place: list[_Setting]) -> _Setting:
    setting = _Setting(name, place)
    place.append(setting)
    if name != "auto":
        _forced.add(setting)
        _tell()
    return setting


def _take_away(setting: _Setting) -> None:
    if setting in setting.place:
        setting.place.remove(setting)
    _forced.discard(setting)
    _tell()


def _tell() -> None:
    # Callers are told before what they call when a force begins, and after it when none is left.
    for listener in reversed(_told) if _forced else _told:
        listener(bool(_forced))


def tell(listener: Callable[[bool], Any]) -> None:
    """Has compiled code told, now and at every change, whether a backend is forced anywhere."""
    with _lock:
        _told.append(listener)
        listener(bool(_forced))


if native.why_no_cpu is None:
    tell(torch.ops.mpkernels.forcing)


def _settle(setting: _Setting) -> None:
    """Puts a plain call in force in the process, unless a later one is."""
    if setting.place is _process:
        return
    setting.place.remove(setting)
    setting.place = _process
    if setting.order > _process[-1].order:
        _process.append(setting)
    else:
        _take_away(setting)


def _drop(setting: _Setting) -> None:
    """Settles a plain call that no `with` can follow any more."""
    _settle(setting)
    if _process[-1] is setting:
        for older in _process[:-1]:
            _take_away(older)
    else:
        _take_away(setting)


@contextlib.contextmanager
def thread_runs(name: Choice) -> Iterator[None]:
    """Forces the backend of the calling thread."""
    with _lock:
        setting = _put(name, _own.entered)
    try:
        yield
    finally:
        with _lock:
            _take_away(setting)


class use_backend:  # noqa: N801  (reads as a verb, like torch.no_grad)
    """Forces the backend of every operator.

    A plain call sets that of the process. As a context manager it sets that of the calling thread,
    whatever the process has, until the context is left, and touches no other thread. The backward
    of what ran eagerly runs the backend of its forward, wherever and whenever it is called; code of
    torch.compile asks as it runs. A backend that cannot run for the tensors it is given raises
    RuntimeError and says why; it never falls back.

    A call whose object is kept, so that `with` may yet follow, is in force in its own thread, and
    in the others as soon as that thread runs an operator or drops the object.

    Args:
        name: "auto" (by device: compiled extension, Triton, else eager), "eager" (the definition),
            "native" (C++ on CPU, CUDA C++ on NVIDIA GPUs) or "triton" (GPUs; CPU tensors in
            Triton's interpreter).

    Raises:
        ValueError: the name is none of these.
        RuntimeError: it is called by code that torch.compile compiles.

    Example:
        >>> with use_backend("eager"):
        ...     ys = functional.mix([torch.ones(2, 3)], torch.ones(2, 1, 1))
    """

    _plain: _Setting | None = None

    def __init__(self, name: Choice) -> None:
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "use_backend: put it around the call of compiled code, not into the code: "
                "the operators ask for the backend as they run"
            )
        if name not in CHOICES:
            raise ValueError(f"use_backend: name must be one of {', '.join(CHOICES)}, got {name!r}")
        self._name = name
        self._entered: list[_Setting] = []
        with _lock:
            self._plain = _put(name, _own.waiting)

    def __enter__(self) -> None:
        with _lock:
            if self._plain is not None:
                _take_away(self._plain)
                self._plain = None
            self._entered.append(_put(self._name, _own.entered))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _lock:
            _take_away(self._entered.pop())

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # What a plain call returns is dropped at once: this is when it is known to be one.
        if self._plain is not None and not finalizing():
            with _lock:
                _drop(self._plain)
