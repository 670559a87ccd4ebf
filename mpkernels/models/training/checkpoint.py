"""Checkpoints that are either whole or not there, and that run no code when read.

A checkpoint is checkpoint.json, which holds everything but the tensors, and the safetensors file
that it names, with that file's SHA-256. Tensors are written first, under a new name; replacing
checkpoint.json is the one step that makes the new checkpoint the current one. Until then, and when
the disk is full, the previous checkpoint stays whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from . import schema
from .files import write_text, write_whole

NAME = "checkpoint.json"
FORMAT = "mpkernels checkpoint 2"
OLDER = "mpkernels checkpoint 1"  # without "run" and "sha256"
_TENSORS = re.compile(r"tensors-[0-9]{1,18}\.safetensors")
_TRIES = 10  # of reading, while training replaces what is read


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON; its tensors go to `tensors` under the name of their position."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        items = {k: _without_tensors(v, f"{name}.{k}", tensors) for k, v in value.items()}
        if all(isinstance(key, str) and key not in ("tensor", "items") for key in items):
            return items
        return {"items": list(items.items())}  # keys of a JSON object are strings
    if isinstance(value, (list, tuple)):
        return [_without_tensors(v, f"{name}.{at}", tensors) for at, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise FloatingPointError(f"{name} is not finite: the checkpoint is not written")
    return value


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_without_tensors`; takes from `tensors` what it uses.

    Raises:
        KeyError: `tensors` lacks one.
        TypeError, ValueError: the value is none that `_without_tensors` returns.
    """
    if isinstance(value, list):
        return [_with_tensors(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors.pop(value["tensor"])
    items = value.get("items", value.items())
    return {key: _with_tensors(v, tensors) for key, v in items}


def save(folder: Path, state: dict[str, Any]) -> None:
    """Makes `state` (dicts, lists, numbers, text, tensors) the checkpoint of `folder`.

    Raises:
        OSError: the checkpoint cannot be written; the previous one is unchanged.
        FloatingPointError: a number is not finite; the previous checkpoint is unchanged.
    """
    tensors: dict[str, Tensor] = {}
    plain = {key: _without_tensors(value, key, tensors) for key, value in state.items()}
    path = folder / NAME
    number = int(re.sub(r"\D", "", _named(path))) + 1 if path.exists() else 0
    own = f"tensors-{number}.safetensors"
    data = safetensors.torch.save(tensors)
    write_whole(folder / own, lambda to: to.write_bytes(data))
    digest = hashlib.sha256(data).hexdigest()
    head = {"format": FORMAT, "tensors": own, "sha256": digest}
    write_text(path, json.dumps({**head, **plain}, indent=1))
    tidy(folder)


def tidy(folder: Path) -> None:
    """Removes tensors that no checkpoint names, as a save that was killed leaves them.

    The folder must be locked.
    """
    path = folder / NAME
    named = _named(path) if path.exists() else ""
    for old in folder.glob("tensors-*.safetensors"):
        if old.name != named and _TENSORS.fullmatch(old.name):
            old.unlink(missing_ok=True)


def file_of(path: Path) -> Path:
    """The checkpoint.json of a run's folder, or the path itself if it is not a folder."""
    return path / NAME if path.is_dir() else path


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def _plain(path: Path, data: bytes) -> dict[str, Any]:
    """What checkpoint.json holds: its own keys checked, the state's not."""
    what = f"{path} is not a checkpoint that training wrote"
    try:
        plain = json.loads(data.decode(), parse_float=_number, parse_constant=_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: {error}") from error
    found = plain.get("format") if isinstance(plain, dict) else None
    if not isinstance(plain, dict) or found not in (FORMAT, OLDER):
        raise ValueError(f"{what}: format must be {FORMAT!r}, got {found!r}")
    name = plain.get("tensors")
    if not isinstance(name, str) or not _TENSORS.fullmatch(name):
        raise ValueError(f"{path}: tensors must be tensors-N.safetensors beside it, got {name!r}")
    return plain


def _named(path: Path) -> str:
    """The file of tensors that checkpoint.json names."""
    return str(_plain(path, path.read_bytes())["tensors"])


def _tensors(path: Path, plain: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that checkpoint.json names, unharmed."""
    held = path.parent / plain.pop("tensors")
    if held.is_symlink():
        raise ValueError(f"{held} is a link; a checkpoint holds its tensors itself")
    if not held.is_file():
        raise ValueError(f"{path} names {held.name}, which is not there")
    data = held.read_bytes()
    if plain.pop("format") != OLDER and plain.pop("sha256", None) != (
        digest := hashlib.sha256(data).hexdigest()
    ):
        raise ValueError(
            f"{held} is damaged or not whole: its SHA-256 is {digest}, {path.name} holds another"
        )
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{held} is damaged or not whole: {error}") from error


def _state(path: Path, data: bytes) -> dict[str, Any]:
    plain = _plain(path, data)
    run = {} if plain["format"] != OLDER else {"run": ""}
    held = path.parent / plain["tensors"]
    tensors = _tensors(path, plain)
    try:
        state = {**run, **{key: _with_tensors(value, tensors) for key, value in plain.items()}}
        schema.check(state)
        if tensors:
            raise ValueError(f"{held.name} holds {min(tensors)}, which {path.name} does not name")
    except KeyError as error:
        raise ValueError(f"{held} lacks {error.args[0]}, which {path.name} names") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    return state


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, which training may be replacing at the same time.

    Args:
        path: checkpoint.json, or the folder of a run.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: a file is damaged or not a checkpoint; the message names it.
    """
    path = file_of(path)
    for left in reversed(range(_TRIES)):
        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint at {path}")
        data = path.read_bytes()
        try:
            return _state(path, data)
        except (OSError, ValueError):
            if not left or (path.is_file() and path.read_bytes() == data):
                raise
    raise AssertionError
