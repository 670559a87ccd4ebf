"""Checkpoints that are either whole or not there, and that run no code when read.

A checkpoint is checkpoint.json, which holds everything but the tensors, and the safetensors file
it names. Tensors are written first, under a new name; replacing checkpoint.json is the one step
that makes the new checkpoint the current one. Until then, and when the disk is full, the previous
checkpoint stays whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..networks.registry import build
from .files import write_text, write_whole
from .recipe import Recipe

NAME = "checkpoint.json"
FORMAT = "mpkernels checkpoint 1"


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
    return value


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    items = value.get("items", value.items())
    return {key: _with_tensors(v, tensors) for key, v in items}


def save(folder: Path, state: dict[str, Any]) -> None:
    """Makes `state` (dicts, lists, numbers, text, tensors) the checkpoint of `folder`.

    Raises:
        OSError: the checkpoint cannot be written; the previous one is unchanged.
    """
    tensors: dict[str, Tensor] = {}
    plain = {key: _without_tensors(value, key, tensors) for key, value in state.items()}
    path = folder / NAME
    previous = json.loads(path.read_text())["tensors"] if path.exists() else None
    number = int(Path(previous).stem.rpartition("-")[2]) + 1 if previous else 0
    own = f"tensors-{number}.safetensors"

    def write(to: Path) -> None:
        try:
            save_file(tensors, to)
        except SafetensorError as error:  # a full disk is reported as this
            raise OSError(f"{folder / own} cannot be written: {error}") from error
        to.chmod(0o644)  # safetensors lets only the owner read it

    write_whole(folder / own, write)
    text = json.dumps({"format": FORMAT, "tensors": own, **plain}, indent=1)
    write_text(path, text)
    for old in folder.glob("tensors-*.safetensors"):  # including leftovers of a run that was killed
        if old.name != own:
            old.unlink(missing_ok=True)


def file_of(path: Path) -> Path:
    """The checkpoint.json of a run's folder, or the path itself if it is not a folder."""
    return path / NAME if path.is_dir() else path


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint.

    Args:
        path: checkpoint.json, or the folder of a run.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: a file is damaged or not a checkpoint; the message names it.
    """
    path = file_of(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    try:
        plain = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a checkpoint that training wrote: {error}") from error
    if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is not a checkpoint that training wrote")
    held = path.parent / plain.pop("tensors")
    if not held.exists():
        raise ValueError(f"{path} names {held.name}, which is not there")
    try:
        tensors = load_file(held)
    except SafetensorError as error:
        raise ValueError(f"{held} is damaged or not whole: {error}") from error
    try:
        return {key: _with_tensors(value, tensors) for key, value in plain.items()}
    except KeyError as error:
        raise ValueError(f"{held} lacks {error.args[0]}, which {path.name} names") from error


def check_options(path: Path, held: dict[str, Any], options: dict[str, Any]) -> None:
    """Raises ValueError naming the first option that differs from those of the checkpoint.

    A value of the recipe that there was not yet when the run began had its default.
    """
    held = {**Recipe().as_dict(), **held}
    for name, value in options.items():
        if held.get(name) != value:
            raise ValueError(
                f"resume: {name} must be {held.get(name)!r} as in {file_of(path)}, got {value!r}"
            )


def load_weights(model: nn.Module, name: str, path: Path) -> None:
    """Loads a checkpoint's weights, averaged ones if it has them, into the network `name`.

    Raises:
        OSError: there is no such checkpoint (FileNotFoundError), or it cannot be read.
        ValueError: it is no checkpoint, or one of another network or of other sizes.
    """
    try:
        state = load(path)
    except FileNotFoundError as error:
        hint = "a run's folder or its checkpoint.json is wanted, no weights come with the networks"
        raise FileNotFoundError(f"pretrained: {error}; {hint}") from error
    except (OSError, ValueError) as error:
        raise type(error)(f"pretrained: {error}") from error
    trained = state["options"].get("name", name)
    if trained != name:
        raise ValueError(f"pretrained: {file_of(path)} holds {trained}, not {name}")
    try:
        model.load_state_dict(state.get("average") or state["model"])
    except RuntimeError as error:
        raise ValueError(f"pretrained: {file_of(path)} does not fit {name}: {error}") from error


def load_network(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network of a run.

    Args:
        path: the run's folder or its checkpoint.

    Returns:
        the network in evaluation mode on the CPU; and what training knew: "name", "data",
        "network" (its options), the values of the recipe, and "metrics".

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, or does not fit the network it names.
    """
    state = load(path)
    options = state["options"]
    if "name" not in options:
        raise ValueError(f"{file_of(path)} does not name its network")
    network_options = {option: _tuples(value) for option, value in options["network"].items()}
    network = build(options["name"], **network_options)
    load_weights(network, options["name"], path)
    return network.eval(), {**options, "metrics": state["metrics"]}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
