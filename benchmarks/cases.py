"""The routers that are measured: those of the paper's networks, and a short named set."""

from __future__ import annotations

from typing import NamedTuple

import torch

from proof.problems.networks import NETWORKS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAYOUTS = ("NCHW", "channels_last")
SMALL, LARGE = 128, 32  # batch of networks for 32x32 images, and for 224x224


class Case(NamedTuple):
    """One router with its maps."""

    batch: int
    channels: int
    spatial: tuple[int, ...]
    inputs: int
    outputs: int
    dtype: str = "fp32"
    layout: str = "NCHW"

    def __str__(self) -> str:
        maps = f"B={self.batch} {[self.channels, *self.spatial]}"
        layout = f" {self.layout}" if self.spatial else ""
        return f"{maps} {self.inputs}->{self.outputs} {self.dtype}{layout}"


def _layouts(case: Case) -> list[Case]:
    """A map in both memory formats; a vector has one."""
    return [case._replace(layout=layout) for layout in LAYOUTS[: 2 if case.spatial else 1]]


def network_cases(dtype: str) -> list[Case]:
    """Every router of the paper's networks, each shape once."""
    cases: dict[Case, None] = {}
    for name, routers in NETWORKS.items():
        batch = SMALL if name.startswith(("basecnn", "resnet20")) else LARGE
        for _, channels, spatial, inputs, outputs in routers:
            for case in _layouts(Case(batch, channels, spatial, inputs, outputs, dtype)):
                cases[case] = None
    return list(cases)


def _bars() -> list[Case]:
    cached = [
        Case(128, 64, (8, 8), 2, 2),
        Case(128, 128, (8, 8), 2, 2),
        Case(128, 32, (16, 16), 2, 2),
    ]
    others = [
        Case(64, 16, (32, 32), 2, 2),
        Case(128, 64, (8, 8), 4, 4),
        Case(32, 64, (56, 56), 2, 2),
        Case(32, 256, (14, 14), 2, 2),
        Case(1, 64, (56, 56), 2, 2),
        *(Case(batch, 32, (), 2, 2) for batch in (1, 8, 128)),
    ]
    narrow = [case._replace(dtype="bf16") for case in cached]
    return [either for case in (*cached, *others) for either in _layouts(case)] + narrow


# The README sums these up: maps about as large as an L2 cache, larger ones, one sample, and
# vectors. `--filter bars` picks them.
BARS = _bars()


def picked(cases: list[Case], text: str) -> list[Case]:
    """The cases whose name contains the text; for the text "bars" those among BARS."""
    if text == "bars":
        return [case for case in cases if case in BARS]
    return [case for case in cases if text in str(case)]
