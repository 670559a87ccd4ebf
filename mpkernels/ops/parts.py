"""cross_predict as its parts: `gate`, one matrix product per path, and `combine`.

For backends that have these two and not the whole layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Kernels = Callable[[str], Callable[..., Any]]


def cross_predict(kernels: Kernels, xs: list[Tensor], *rest: Any) -> Any:
    """The layer, by the kernels that have these names."""
    weight, bias, w1, b1, w2, b2, scale, shift, relu = rest
    gates, _ = kernels("gate")(xs, w1, b1, w2, b2)
    us = torch.stack([x @ w.T for x, w in zip(xs, weight.unbind())])
    ys = kernels("combine")(list(us.unbind()), gates, bias, scale, shift, relu)
    return ys, gates, us


def cross_predict_backward(
    kernels: Kernels,
    grad_ys: list[Tensor | None],
    grad_gates: Tensor | None,
    xs: list[Tensor],
    gates: Tensor,
    us: Tensor,
    *rest: Any,
) -> Any:
    """Its gradient; eager/gradients.py has the equations."""
    weight, bias, w1, b1, w2, b2, scale, shift, relu, wanted = rest
    m = len(xs)
    of_weight, of_bias, *of_gate, of_scale, of_shift = wanted[m:]
    flags = [True] * (m + 1) + [of_bias, of_scale, of_shift]
    grad_us, (grad_g, *of_rest) = kernels("combine_backward")(
        grad_ys, list(us.unbind()), gates, bias, scale, shift, relu, flags
    )
    grad_g = grad_g if grad_gates is None else grad_g + grad_gates
    grad_pooled, of_parameters = kernels("gate_backward")(
        grad_g, gates, torch.stack(xs, 1), w1, b1, w2, b2, of_gate
    )
    grad_xs = [grad_us[i] @ weight[i] + grad_pooled[:, i] for i in range(m) if wanted[i]]
    grad_weight = [torch.stack([grad.T @ x for grad, x in zip(grad_us, xs)])] if of_weight else []
    grad_bias = of_rest[:1] if of_bias and bias is not None else []
    return grad_xs, [*grad_weight, *grad_bias, *of_parameters, *of_rest[len(grad_bias) :]]
