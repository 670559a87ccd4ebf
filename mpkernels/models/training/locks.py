"""Locks that end with the process that holds them, however it ends.

They are the kernel's (flock): a file that a killed process leaves locks nothing.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_open: set[int] = set()


def _let_go() -> None:
    """In a forked child, such as one that reads images: it may outlive the lock's owner."""
    while _open:
        os.close(_open.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def hold(path: Path) -> Iterator[str]:
    """Holds the lock of a file, which is made where it is missing, until the context is left.

    Yields:
        why there is no lock; nothing where there is one.

    Raises:
        BlockingIOError: another has the lock.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _open.add(file)
    missing = "" if fcntl else "this system has no flock"
    try:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError as error:  # some network file systems
                missing = f"its file system has no locks: {error.strerror}"
        yield missing
    finally:
        if file in _open:  # not in a forked child
            _open.remove(file)
            os.close(file)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, if need be, and keeps it to this process until the context is left.

    Where there are no locks, a line on standard error says so.

    Raises:
        BlockingIOError: another process keeps it; the message names both and says what to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    with ExitStack() as stack:
        try:
            missing = stack.enter_context(hold(path))
        except BlockingIOError as error:
            owner = path.read_text("utf-8", "replace") or "another process"
            raise BlockingIOError(
                f"{folder} is in use by {owner}: wait until that ends, stop it, "
                "or choose another folder"
            ) from error
        if missing:
            print(f"{folder} is not locked ({missing}): start nothing else in it", file=sys.stderr)
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
        yield
