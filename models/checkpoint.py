"""Files that are either whole or not there: checkpoints, metrics, pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint."""
    write_whole(path, lambda to: torch.save(state, to))


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Writes metrics, one JSON object a line."""
    write_whole(path, lambda to: to.write_text("".join(json.dumps(line) + "\n" for line in lines)))


def load(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Reads a checkpoint that was made with the same options.

    Raises:
        FileNotFoundError: there is none.
        ValueError: an option differs; the message names it with both values.
    """
    if not path.exists():
        raise FileNotFoundError(f"resume: there is no checkpoint at {path}")
    state: dict[str, Any] = torch.load(path, weights_only=True)
    for name, value in options.items():
        if state["options"].get(name) != value:
            raise ValueError(
                f"resume: {name} must be {state['options'].get(name)!r} as in {path}, got {value!r}"
            )
    return state


def load_weights(model: nn.Module, name: str, path: Path) -> None:
    """Loads the weights of a checkpoint into the network `name`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint of training, or one of another network or other sizes.
    """
    if not path.exists():
        raise FileNotFoundError(f"pretrained: there is no checkpoint at {path}")
    state = torch.load(path, weights_only=True, map_location="cpu")
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"pretrained: {path} is not a checkpoint that training wrote")
    found = state.get("options", {}).get("name", name)
    if found != name:
        raise ValueError(f"pretrained: {path} holds {found}, not {name}")
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(f"pretrained: {path} does not fit {name}: {error}") from error
