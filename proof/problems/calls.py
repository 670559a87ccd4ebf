"""Every operator as a function of its paths and of the tensors that follow them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.eager.functional import SOFTMAX
from mpkernels.ops.flags import mask_of
from mpkernels.selftest import ARGUMENTS, OPERATORS, flat
from proof.problems.cases import (
    Case,
    make_combine_parameters,
    make_gates,
    make_parameters,
    make_paths,
    make_predictions,
)

MAPS = ("cross_connect", "mix", "mix_by_channel", "combine")  # their outputs are maps
NAMES = (*(name for name in OPERATORS if name != "cross_predict"), "mix_by_channel")


def operator_of(name: str) -> str:
    """The operator behind a name."""
    return name.removesuffix("_by_channel").removesuffix("_of_vectors")


# Their gates are an argument.
GIVEN_GATES = tuple(name for name in NAMES if "gates" in ARGUMENTS[operator_of(name)])


def random_arguments(
    name: str,
    sizes: dict[str, int],
    spatial: Sequence[int] = (),
    random: Callable[..., Tensor] = torch.randn,
) -> dict[str, Any]:
    """Every tensor that the function takes, by name; the paths, a list, come first."""
    shapes = dict(ARGUMENTS[operator_of(name)])
    if name.endswith("_by_channel"):
        shapes["gates"] += "C"
    if "weight" in shapes or name.endswith("_of_vectors"):  # cross_predict takes vectors alone
        spatial = ()
    sizes = {"R": sizes["n"] * sizes["D"], **sizes}
    (paths, shape), *rest = shapes.items()
    path = [*(sizes[letter] for letter in shape), *spatial]
    made: dict[str, Any] = {paths: [random(*path) for _ in range(sizes["m"])]}
    return made | {k: random(*(sizes[letter] for letter in shape)) for k, shape in rest}


def arguments(name: str, case: Case) -> tuple[list[Tensor], list[Tensor | None]]:
    """The paths, and the other tensors in the operator's order."""
    if name == "combine":
        return make_predictions(case), list(make_combine_parameters(case).values())
    if name in GIVEN_GATES:
        return make_paths(case), [make_gates(case, name == "mix_by_channel")]
    return make_paths(case), list(make_parameters(case).values())


def call(
    name: str, functions: ModuleType, paths: list[Tensor], rest: list[Tensor | None]
) -> list[Tensor]:
    """All outputs, computed by `functions`: `mpkernels.functional` or `mpkernels.eager`."""
    operator = operator_of(name)
    named = dict(zip([*ARGUMENTS[operator]][1:], rest))
    return flat(getattr(functions, operator)(paths, **named))


def packed(operator: str, rest: Sequence[Tensor | None], relu: bool = True) -> tuple[Any, ...]:
    """What follows the paths in an operator's schema, of the tensors in the function's order."""
    if operator == "combine":
        gates, *affine = rest
        return gates, affine, relu
    if operator == "cross_predict":
        weight, bias, *gate, scale, shift = rest
        return weight, [bias, scale, shift], gate, SOFTMAX, relu
    return (list(rest), SOFTMAX) if "w1" in ARGUMENTS[operator] else tuple(rest)


def call_operator(name: str, paths: list[Tensor], rest: list[Tensor | None]) -> list[Tensor]:
    """The outputs that `call` returns, computed by `torch.ops.mpkernels`."""
    operator = operator_of(name)
    outputs = getattr(torch.ops.mpkernels, operator)(paths, *packed(operator, rest))
    # What the function returns comes first, then what the backward needs.
    return outputs[: len(call(name, eager, paths, rest))]


def call_backward(
    operator: str,
    grads: Sequence[Tensor | None],
    kept: Sequence[Tensor],
    paths: list[Tensor],
    rest: tuple[Any, ...],
    flags: Sequence[bool],
) -> tuple[list[Tensor], list[Tensor]]:
    """The flagged gradients of the paths and of the rest, which is packed."""
    backward = getattr(torch.ops.mpkernels, f"{operator}_backward")
    results = backward(grads, kept, paths, *rest, mask_of(tuple(flags)))
    count = sum(flags[: len(paths)])
    return results[:count], results[count:]


def leaves(paths: list[Tensor], rest: list[Tensor | None]) -> list[Tensor]:
    """The tensors that require a gradient."""
    return [t for t in (*paths, *rest) if t is not None and t.requires_grad]


def slices(name: str, part: slice, paths: list, rest: list) -> tuple[list, list]:
    """The arguments of the same call for part of the batch."""
    others = [rest[0][part], *rest[1:]] if name in GIVEN_GATES else rest
    return [x[part] for x in paths], others
