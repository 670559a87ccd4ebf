"""An operator's arguments as a flat list of tensors and back, as its schema has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from mpkernels.ops.flags import flags_of

# How flat tensors become arguments again: the size of a list, None for a tensor, or the value of
# what is no tensor, in a tuple.
Form = tuple[Any, ...]

# The types behind which nothing hides.
PLAIN = frozenset((Tensor, Parameter, type(None)))


def read(schema: str) -> tuple[list[str], Callable[..., list[Any]], Callable[..., Form]]:
    """The arguments' names, and what takes the tensors and the form of all arguments.

    Both are written out per schema: a loop over the types would take longer than a small kernel.
    """
    arguments = schema.partition("(")[2].partition(")")[0]
    kinds = {name: kind for kind, name in (each.split() for each in arguments.split(", "))}
    names, flat, form = ", ".join(kinds), "", ""
    for name, kind in kinds.items():
        if kind.endswith("]"):
            flat, form = f"{flat}*{name}, ", f"{form}len({name}), "
        elif kind == "Tensor":
            flat, form = f"{flat}{name}, ", f"{form}None, "
        else:
            form = f"{form}({name},), "
    return list(kinds), eval(f"lambda {names}: [{flat}]"), eval(f"lambda {names}: ({form})")


def count(part: Any) -> int:
    """How many flat tensors a part of the form stands for."""
    return 1 if part is None else 0 if type(part) is tuple else part


def nested(flat: Sequence[Any], form: Form) -> list[Any]:
    """The arguments of which `flat` are the tensors."""
    arguments: list[Any] = []
    at = 0
    for part in form:
        if part is None:
            arguments.append(flat[at])
            at += 1
        elif type(part) is tuple:
            arguments.append(part[0])
        else:
            arguments.append(list(flat[at : at + part]))
            at += part
    return arguments


def placed(results: list[Tensor], wanted: int, flat: Sequence[Any]) -> list[Tensor | None]:
    """The gradients at the places of the tensors that wanted them, None elsewhere."""
    if len(results) == len(flat):
        return [*results]
    remaining = iter(results)
    return [
        next(remaining) if w and t is not None else None
        for t, w in zip(flat, flags_of(wanted, len(flat)))
    ]
