"""Files that are either whole or not there, in UTF-8, and JSON that every reader takes."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from .locks import hold

_WRITING = ".mpkernels-writing-"


def sweep(folder: Path) -> None:
    """Removes what writers that were killed have left in a folder."""
    for left in folder.glob(f"{_WRITING}*"):
        # A living writer has the lock. Where there are no locks nothing says that it is dead.
        with suppress(OSError), hold(left / "lock") as missing:
            if not missing:
                shutil.rmtree(left)


def _own(folder: Path, stack: ExitStack) -> Path:
    """A folder for temporary files, locked until `stack` is left, which removes it."""
    while True:
        own = Path(tempfile.mkdtemp(prefix=_WRITING, dir=folder))
        stack.callback(shutil.rmtree, own, ignore_errors=True)
        # Until it is locked another process may sweep it away.
        with suppress(BlockingIOError, FileNotFoundError):
            stack.enter_context(hold(own / "lock"))
            own.stat()
            return own


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file of the same name, then renames that to `path`.

    Raises:
        OSError: it cannot be written; the message names `path`, which is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        with ExitStack() as stack:
            temporary = _own(path.parent, stack) / path.name
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # else the new name may reach the disk before the bytes
            os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole."""
    # Names of files that are not UTF-8 hold characters that UTF-8 has not.
    write_whole(path, lambda to: to.write_text(text, "utf-8", "backslashreplace"))


def as_json(value: Any, indent: int | None = None) -> str:
    """The value as JSON, which has no NaN and no infinity: they become null."""

    def known(part: Any) -> Any:
        if isinstance(part, float) and not math.isfinite(part):
            return None
        if isinstance(part, dict):
            return {key: known(inner) for key, inner in part.items()}
        return [known(inner) for inner in part] if isinstance(part, (list, tuple)) else part

    return json.dumps(known(value), indent=indent, allow_nan=False)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Writes a JSON file, whole."""
    write_text(path, as_json(value, indent))
