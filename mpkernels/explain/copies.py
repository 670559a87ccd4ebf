"""Copies of maps that no kernel can read or write where they lie."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mpkernels.ops.layout import empty_map, geometry_of, strides_in_place


def copies(maps: Sequence[Tensor], name: str) -> tuple[int, int, list[str]]:
    """Copies of a forward and of a backward, and why they are made.

    Args:
        maps: tensors whose shapes and strides count, of one shape.
        name: of the argument that they are.
    """
    forward = backward = 0
    notes = []
    geometry = geometry_of(maps[0])
    for i, x in enumerate(maps):
        if strides_in_place(x, geometry) is None:
            forward, backward = forward + 1, backward + 1
            notes.append(f"{name}[{i}] has strides {tuple(x.stride())}: one copy before it is read")
        if strides_in_place(empty_map(x), geometry) is None:
            backward += 1
            notes.append(
                f"{name}[{i}] has another memory format than {name}[0]: one copy of its gradient"
            )
    return forward, backward, notes
