"""The card for one process: others compile meanwhile, and launch nothing that is timed with."""

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
    """Several processes at a time; no one is timing then."""
    return _held(fcntl.LOCK_SH)


def timing() -> contextlib.AbstractContextManager[None]:
    """One process at a time, once no one compiles."""
    return _held(fcntl.LOCK_EX)
