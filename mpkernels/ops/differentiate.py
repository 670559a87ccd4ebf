"""Gradients of the eager definition, of any order, for where no kernel computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._C import (
    DispatchKey,
    _dispatch_tls_local_exclude_set,
    _dispatch_tls_local_include_set,
    _ForceDispatchKeyGuard,
)

Definition = Callable[[list[Tensor | None]], Sequence[Tensor]]


def _autograd_restored() -> _ForceDispatchKeyGuard:
    # An operator's kernel runs below autograd, which then records nothing; here it must.
    excluded = _dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor"):
        excluded = excluded.remove(getattr(DispatchKey, key))
    return _ForceDispatchKeyGuard(_dispatch_tls_local_include_set(), excluded)


def _fresh(t: Tensor | None) -> Tensor | None:
    # A node of its own for each argument: the same tensor given twice must not be counted twice.
    if t is None:
        return None
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()


def _pull_back(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    grad_outputs: Sequence[Tensor | None],
    create_graph: bool,
) -> list[Tensor]:
    kept = [(y, g) for y, g in zip(outputs, grad_outputs) if g is not None and y.requires_grad]
    if not kept or not inputs:
        return [torch.zeros_like(x) for x in inputs]
    grads = torch.autograd.grad(
        [y for y, _ in kept],
        list(inputs),
        [g for _, g in kept],
        create_graph=create_graph,
        allow_unused=True,
    )
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads)]


def gradients(
    definition: Definition,
    inputs: Sequence[Tensor | None],
    grad_outputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor]:
    """Gradients of the wanted inputs, in order, for the gradients of the outputs."""
    with _autograd_restored(), torch.enable_grad():
        fresh = [_fresh(t) for t in inputs]
        chosen = [t for t, w in zip(fresh, wanted) if w and t is not None]
        return _pull_back(definition(fresh), chosen, grad_outputs, create_graph=False)


def second_gradients(
    definition: Definition,
    inputs: Sequence[Tensor | None],
    grad_outputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
    grad_gradients: Sequence[Tensor | None],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients of `gradients(...)`: of the inputs, and of the gradients of the outputs."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        fresh = [_fresh(t) for t in inputs]
        fresh_grads = [_fresh(t) for t in grad_outputs]
        chosen = [t for t, w in zip(fresh, wanted) if w and t is not None]
        firsts = _pull_back(definition(fresh), chosen, fresh_grads, create_graph=True)
        both = [t for t in (*fresh, *fresh_grads) if t is not None]
        found = iter(_pull_back(firsts, both, grad_gradients, create_graph))
    results = [None if t is None else next(found) for t in (*fresh, *fresh_grads)]
    return results[: len(fresh)], results[len(fresh) :]
