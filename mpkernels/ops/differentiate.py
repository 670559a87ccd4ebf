"""Gradients of plain PyTorch functions, for where no kernel computes them: of gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpkernels.ops.internals import transforms_are_active

Optional = Sequence[Tensor | None]
Function = Callable[[list[Any]], Sequence[Tensor]]


def _fresh(t: Tensor | None) -> Tensor | None:
    # A node of its own for each argument: the same tensor given twice must not be counted twice.
    # A view, not a detached tensor: that would lose a forward-mode derivative.
    if t is None:
        return None
    view = t.view_as(t)
    return view if view.requires_grad else view.requires_grad_()


def pull_back(function: Function, inputs: Optional, grad_outputs: Optional) -> list[Tensor | None]:
    """Gradients of a function at all its inputs, for those of its outputs; None where zero.

    They are differentiable where gradients are recorded, and in every transform in force.
    """
    if transforms_are_active():
        return _pull_back_within_transforms(function, inputs, grad_outputs)
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        fresh = [_fresh(t) for t in inputs]
        outputs = function(fresh)
        kept = [(y, g) for y, g in zip(outputs, grad_outputs) if g is not None and y.requires_grad]
        if not kept:
            return [None] * len(inputs)
        found = torch.autograd.grad(
            [y for y, _ in kept],
            [t for t in fresh if t is not None],
            [g for _, g in kept],
            create_graph=create_graph,
            allow_unused=True,
        )
    return _at_places(found, inputs)


def _pull_back_within_transforms(
    function: Function, inputs: Optional, grad_outputs: Optional
) -> list[Tensor | None]:
    # torch.func refuses requires_grad_() there, and has a level of its own for each gradient.
    def of_given(*given: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(_at_places(given, inputs)))

    outputs, pull, *_ = torch.func.vjp(of_given, *(t for t in inputs if t is not None))
    grads = tuple(torch.zeros_like(y) if g is None else g for y, g in zip(outputs, grad_outputs))
    return _at_places(pull(grads), inputs)


def _at_places(values: Sequence[Tensor | None], inputs: Optional) -> list[Tensor | None]:
    remaining = iter(values)
    return [None if t is None else next(remaining) for t in inputs]
