"""build.json: what the libraries were built for, and whether each still is as it was built."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
PATH = PACKAGE / "build.json"
# What the library _C defines as operators, and Python where it does not load.
SCHEMAS = PACKAGE / "ops" / "schemas.def"

_CHUNK = 1 << 18
_TYPES: dict[str, type] = {
    "torch": str,
    "torch_minimum": str,
    "python": str,
    "platform": str,
    "compiler": str,
    "compiler_flags": str,
    "cuda_toolkit": str,
    "cuda_architectures": str,
    "schemas": str,
    "instruction_sets": list,
    "missing": dict,
    "files": dict,
}


def _why_not_a_record(content: Any) -> str | None:
    if not isinstance(content, dict):
        return f"must be an object, got {type(content).__name__}"
    for key, kind in _TYPES.items():
        if key in content and not isinstance(content[key], kind):
            return f"{key} must be a {kind.__name__}, got {type(content[key]).__name__}"
    for key, kind in (("missing", str), ("files", dict)):
        for name, value in content.get(key, {}).items():
            if not isinstance(value, kind):
                return f"{key}.{name} must be a {kind.__name__}, got {type(value).__name__}"
    if not all(isinstance(name, str) for name in content.get("instruction_sets", [])):
        return "instruction_sets must hold names"
    return None


def _read() -> tuple[dict[str, Any], str | None]:
    """What build.json holds, and what is wrong with it."""
    try:
        content = json.loads(PATH.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, "build.json is not there"
    except OSError as error:
        return {}, f"build.json cannot be read: {error.strerror or error}"
    # Beside a JSONDecodeError: bytes that are no UTF-8, or a nesting that nobody wrote.
    except (ValueError, RecursionError) as error:
        return {}, f"build.json is damaged: {error}"
    reason = _why_not_a_record(content)
    return ({}, f"build.json is damaged: {reason}") if reason else (content, None)


def build_record() -> dict[str, Any]:
    """What the libraries were built for; empty where build.json is not there or damaged."""
    return _read()[0]


def path_of(name: str) -> Path:
    """Where the library of this name belongs."""
    return PACKAGE / f"{name}.so"


def why_unusable(name: str) -> str | None:
    """Why the library of this name must not be loaded, or None.

    One that is cut off would end the process with a bus error, and one with other bytes could do
    anything: only what is as it was built may be loaded.
    """
    record, reason = _read()
    path = path_of(name)
    if not path.exists():
        reason = record.get("missing", {}).get(name)
        return f"{path.name} is not there" + (f": {reason}" if reason else "")
    if reason:
        return f"{reason}, so that {path.name} cannot be compared with it"
    wanted = record.get("files", {}).get(name, {})
    size, digest = wanted.get("size"), wanted.get("sha256")
    if not isinstance(size, int) or not isinstance(digest, str):
        return f"build.json holds no size and hash of {path.name}, as that of an older build"
    schemas = hashlib.sha256(SCHEMAS.read_bytes()).hexdigest()
    if name.startswith("_C") and record.get("schemas") != schemas:
        return f"{path.name} was built for other operators than this mpkernels has"
    try:
        return _why_altered(path, size, digest)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror or error}"


def _why_altered(path: Path, size: int, digest: str) -> str | None:
    if (now := path.stat().st_size) != size:
        return f"{path.name} has {now} bytes, but had {size} when it was built"
    content = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            content.update(chunk)
    if content.hexdigest() != digest:
        return f"{path.name} has other bytes than when it was built"
    return None
