"""Errors below C++, of which C++ passes on the text alone."""

from __future__ import annotations

import re
import threading

import torch


class _Last(threading.local):
    error: BaseException | None = None
    text = ""


_last = _Last()


def remember(error: BaseException | None) -> None:
    """Keeps what Python raised, for this thread; None before a call that may raise."""
    _last.error = error
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
    if re.search(r"out of memory. Tried to allocate", str(error)):
        raise torch.OutOfMemoryError(str(error)) from error
