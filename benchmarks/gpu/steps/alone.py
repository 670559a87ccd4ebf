"""The card for one process: while it is timing, no other one compiles or times."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def _held(kind: int) -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / "mpkernels_gpu.lock").open("w") as file:
        fcntl.flock(file, kind)
        yield


def compiling() -> contextlib.AbstractContextManager[None]:
    """Held by several processes at a time, while none is timing."""
    return _held(fcntl.LOCK_SH)


def timing() -> contextlib.AbstractContextManager[None]:
    """Held by one process at a time, once none compiles."""
    return _held(fcntl.LOCK_EX)
