"""What a checkpoint's state holds: every key, and its type."""

from __future__ import annotations

from typing import Any

from torch import Tensor

ANY = ""  # of an object: all keys that are not named
_LINE = dict.fromkeys(
    ("epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
     "images_per_second", "seconds", ANY),
    float,
)  # fmt: skip
_GROUP = {"params": [str], "lr": float, "weight_decay": float}
# Of a group, further: SGD's, or Adam's.
_SGD, _ADAM = {"momentum": float}, {"betas": [float], "eps": float}
_SCALAR = (float, Tensor, str, bool, type(None))
STATE = {
    "run": str,
    "options": dict,
    "model": {ANY: Tensor},
    "optimizer": {"state": {ANY: {ANY: _SCALAR}}, "param_groups": [_GROUP]},
    "average": ({ANY: Tensor}, type(None)),
    "scaler": {ANY: float},
    "place": [int],
    "seen": [float],
    "metrics": [_LINE],
}
# Of the options; a network trained in a loop of the user's own has no such names.
NAMES = {"name": str, "data": (str, type(None)), "network": dict}

_WORDS = {
    str: "text", bool: "true or false", int: "a whole number", float: "a number",
    Tensor: "a tensor", list: "a list", dict: "an object", type(None): "null",
}  # fmt: skip


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _check(value: Any, wanted: Any, name: str) -> None:
    """Raises ValueError unless the value is `wanted`.

    That is a type, [what each element is], {key: what its value is}, or a tuple of those.
    """
    kinds = wanted if isinstance(wanted, tuple) else (wanted,)
    types = {kind if isinstance(kind, type) else type(kind): kind for kind in kinds}
    kind = next((kind for is_of, kind in types.items() if _is(value, is_of)), None)
    if kind is None:
        words = " or ".join(_WORDS[each] for each in types)
        found = repr(value) if isinstance(value, (str, int, float)) else _WORDS[type(value)]
        raise ValueError(f"{name} must be {words}, got {found}")
    if isinstance(kind, list):
        for at, part in enumerate(value):
            _check(part, kind[0], f"{name}.{at}")
    if isinstance(kind, dict):
        for key in kind.keys() - {ANY} - value.keys():
            raise ValueError(f"{name}.{key} is missing".lstrip("."))
        for key in value.keys() & kind.keys() if ANY not in kind else value:
            _check(value[key], kind.get(key, kind.get(ANY)), f"{name}.{key}".lstrip("."))


def check(state: dict[str, Any]) -> None:
    """Checks what training saved; further keys are left alone.

    Raises:
        ValueError: a key is missing or holds something else; the message names it.
    """
    _check(state, STATE, "")
    for at, group in enumerate(state["optimizer"]["param_groups"]):
        _check(group, _ADAM if "betas" in group else _SGD, f"optimizer.param_groups.{at}")
    named = {key: kind for key, kind in NAMES.items() if key in state["options"]}
    _check(state["options"], named, "options")
    for key, length in (("place", 2), ("seen", 3)):
        if len(state[key]) != length or min(state[key]) < 0:
            raise ValueError(f"{key} must be {length} numbers from 0 on, got {state[key]}")
    epochs, lines = state["place"][0], len(state["metrics"])
    if lines != epochs:
        raise ValueError(f"metrics must have a line for each of {epochs} epochs, got {lines}")
