"""Every operator as a function of its paths and of the tensors that follow them."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from proof.problems.cases import (
    Case,
    make_combine_parameters,
    make_gates,
    make_parameters,
    make_paths,
    make_predictions,
)

NAMES = ("cross_connect", "gate", "mix", "mix_by_channel", "combine")
MAPS = ("cross_connect", "mix", "mix_by_channel", "combine")  # their outputs are maps
GIVEN_GATES = ("mix", "mix_by_channel", "combine")  # their gates are an argument


def operator_of(name: str) -> str:
    """The operator behind a name."""
    return name.removesuffix("_by_channel")


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
    if name == "cross_connect":
        ys, gates = functions.cross_connect(paths, *rest)
        return [*ys, gates]
    if name == "gate":
        return [functions.gate(paths, *rest)]
    if name in ("mix", "mix_by_channel"):
        return functions.mix(paths, *rest)
    gates, bias, scale, shift = rest
    return functions.combine(paths, gates, bias, scale=scale, shift=shift)


def call_operator(name: str, paths: list[Tensor], rest: list[Tensor | None]) -> list[Tensor]:
    """The outputs that `call` returns, computed by `torch.ops.mpkernels`."""
    options = [True] if name == "combine" else []
    outputs = getattr(torch.ops.mpkernels, operator_of(name))(paths, *rest, *options)
    if name == "cross_connect":
        return [*outputs[0], outputs[1]]
    return [outputs[0]] if name == "gate" else outputs


def leaves(paths: list[Tensor], rest: list[Tensor | None]) -> list[Tensor]:
    """The tensors that require a gradient."""
    return [t for t in (*paths, *rest) if t is not None and t.requires_grad]


def slices(name: str, part: slice, paths: list, rest: list) -> tuple[list, list]:
    """The arguments of the same call for part of the batch."""
    others = [rest[0][part], *rest[1:]] if name in GIVEN_GATES else rest
    return [x[part] for x in paths], others
