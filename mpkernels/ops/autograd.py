"""The step of an operator below autograd, shared by all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _after_autograd_keyset, _any_requires_grad, _AutoDispatchBelowAutograd

from mpkernels.ops.schema import library

# torch.library.register_autograd would do the same at several times the cost for lists of tensors.


def below_autograd(operator: Any, keyset: Any, *arguments: Any) -> Any:
    """Runs the operator's kernel for the device of its tensors."""
    with _AutoDispatchBelowAutograd():
        return operator.redispatch(keyset & _after_autograd_keyset, *arguments)


def register(name: str, differentiable: Callable[..., Any]) -> None:
    """Makes `differentiable(keyset, *arguments)` run where a gradient may be needed."""
    operator = getattr(torch.ops.mpkernels, name).default

    def kernel(keyset: Any, *arguments: Any) -> Any:
        if torch.is_grad_enabled() and _any_requires_grad(*arguments):
            return differentiable(keyset, *arguments)
        return below_autograd(operator, keyset, *arguments)

    library.impl(name, kernel, "Autograd", with_keyset=True)


def place(grads: list[Tensor], wanted: list[bool]) -> list[Tensor | None]:
    """The gradients at the places where they were wanted, None elsewhere."""
    remaining = iter(grads)
    return [next(remaining) if w else None for w in wanted]
