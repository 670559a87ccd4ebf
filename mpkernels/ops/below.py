"""Errors below C++, of which C++ passes on the text alone."""

from __future__ import annotations

import threading

import torch


class _Last(threading.local):
    error: BaseException | None = None
    text = ""


_last = _Last()


def remember(error: BaseException | None) -> None:
    """Keeps what Python raised, for this thread; None before a call that may raise.

    Without its traceback, whose frames would keep their tensors.
    """
    _last.error = None if error is None else error.with_traceback(None)
    _last.text = "" if error is None else str(error) or type(error).__name__


def text() -> str:
    """Of what was kept, or empty."""
    return _last.text


def raise_as_it_was(error: RuntimeError) -> None:
    """Raises what C++ has told of: Python's own exception, or torch.OutOfMemoryError."""
    original = _last.error
    if original is not None and str(error) == _last.text:
        _last.error = None
        raise original
    short = "out of memory. Tried to allocate" in str(error)
    if short and not isinstance(error, torch.OutOfMemoryError):
        raise torch.OutOfMemoryError(str(error)) from error
