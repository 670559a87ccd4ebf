"""The gradients of the definition, as equations in plain PyTorch (Eq. 8 to 9, generalised).

They are themselves differentiable, in any mode and order. Each function takes the gradients of the
outputs, which may be None, the arguments of the operator of its name, and a flag for each tensor
among them; it returns the gradients that are flagged, in order. As in the definition, sums are
computed in float32 (float64 for float64 maps) and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from mpkernels.eager.functional import KINDS, accumulate_dtype, gates_of_scores, pool
from mpkernels.eager.functional import gate as gate_of

Grads = Sequence[Tensor | None]


def _sum(terms: list[Tensor], like: Tensor) -> Tensor:
    if not terms:
        return torch.zeros_like(like)
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _through_relu(grad: Tensor, before: Tensor) -> Tensor:
    # Written so that a NaN before the ReLU lets the gradient pass, as PyTorch's own does.
    return torch.where(before <= 0, torch.zeros_like(grad), grad)


def _spread(values: Tensor, dims: int) -> Tensor:
    """Values of channels with so many more dimensions of size 1, one for each of space."""
    # No view where there is none to make: not every map over gradients knows an alias.
    return values[(...,) + (None,) * dims] if dims else values


def _wide(grads: Grads, dtype: torch.dtype) -> Grads:
    return [None if grad is None else grad.to(dtype) for grad in grads]


def mix(
    grad_ys: Grads, xs: Sequence[Tensor], gates: Tensor, wanted: Sequence[bool]
) -> list[Tensor]:
    """dX_i = sum_j g_ij dY_j;  dg_ij = <X_i, dY_j>, over channels too unless gates has them."""
    dtype, dims = accumulate_dtype(xs[0].dtype), xs[0].dim()
    weights = gates.to(dtype) if gates.dim() == 4 else gates.to(dtype).unsqueeze(-1)
    weights = _spread(weights, dims - 2)
    grads = _wide(grad_ys, dtype)
    present = [(j, grad) for j, grad in enumerate(grads) if grad is not None]
    grad_xs = [
        _sum([weights[:, i, j] * grad for j, grad in present], x.to(dtype)).to(x.dtype)
        for i, x in enumerate(xs)
        if wanted[i]
    ]
    if not wanted[len(xs)]:
        return grad_xs
    summed = tuple(range(gates.dim() - 2, dims))

    def inner(x: Tensor, grad: Tensor | None) -> Tensor:
        if grad is None:
            return torch.zeros_like(gates[:, 0, 0], dtype=dtype)
        product = x.to(dtype) * grad
        return product.sum(summed) if summed else product

    rows = [torch.stack([inner(x, grad) for grad in grads], 1) for x in xs]
    return [*grad_xs, torch.stack(rows, 1).to(gates.dtype)]


def gate(
    grad_gates: Tensor | None, pooled: Tensor, parameters: Grads, kind: int, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor]]:
    """With the scores A: dA = g (dg - <g, dg>);  dH = W2^T dA where H > 0;  dZ = W1^T dH.

    Args:
        grad_gates: [B, m, n].
        pooled: Z [B, m, C]; its gradient is the first that is returned.
        parameters: w1, b1, w2, b2 of `gate`; `wanted` has a flag for each.
    """
    w1, b1, w2, b2 = parameters
    assert w1 is not None and w2 is not None
    dtype = accumulate_dtype(pooled.dtype)
    if grad_gates is None:
        grad_gates = torch.zeros_like(gate_of(pooled.unbind(1), w1, b1, w2, b2, kind=KINDS[kind]))
    of_paths: list[list[Tensor]] = []
    for i, z in enumerate(pooled.to(dtype).unbind(1)):
        first, second = w1[i].to(dtype), w2[i].to(dtype)
        before = linear(z, first, None if b1 is None else b1[i].to(dtype))
        hidden = before.relu()
        g = gates_of_scores(linear(hidden, second, None if b2 is None else b2[i].to(dtype)), kind)
        product = g * grad_gates[:, i].to(dtype)
        grad_logits = product - g * product.sum(-1, keepdim=True)
        grad_hidden = _through_relu(grad_logits @ second, before)
        of_paths.append(
            [
                grad_hidden @ first,
                grad_hidden.T @ z,
                grad_hidden.sum(0),
                grad_logits.T @ hidden,
                grad_logits.sum(0),
            ]
        )
    grad_pooled, *of_parameters = (list(grads) for grads in zip(*of_paths))
    chosen = zip((w1, b1, w2, b2), of_parameters, wanted)
    return torch.stack(grad_pooled, 1).to(pooled.dtype), [
        torch.stack(grads).to(p.dtype) for p, grads, w in chosen if w and p is not None
    ]


def cross_connect(
    grads: Grads, xs: Sequence[Tensor], parameters: Grads, kind: int, wanted: Sequence[bool]
) -> list[Tensor]:
    """`mix` and `gate`: dX_i = sum_j g_ij dY_j + dZ_i / S, at every one of the S positions."""
    *grad_ys, grad_gates = grads
    dtype, m = accumulate_dtype(xs[0].dtype), len(xs)
    wide = [x.to(dtype) for x in xs]
    pooled = torch.stack([pool(x) for x in wide], 1)
    gates = gate_of(pooled.unbind(1), *parameters, kind=KINDS[kind])  # type: ignore[arg-type]
    *of_xs, of_gates = mix(grad_ys, wide, gates, [*wanted[:m], True])
    if grad_gates is not None:
        of_gates = of_gates + grad_gates.to(dtype)
    grad_pooled, of_parameters = gate(of_gates, pooled, parameters, kind, wanted[m:])
    positions, spatial = math.prod(xs[0].shape[2:]), xs[0].dim() - 2
    per_position = _spread(grad_pooled / positions, spatial)
    chosen = [i for i in range(m) if wanted[i]]
    grad_xs = [
        (grad + per_position[:, i]).to(xs[i].dtype) for i, grad in zip(chosen, of_xs, strict=True)
    ]
    return [*grad_xs, *of_parameters]


def combine(
    grad_ys: Grads,
    us: Sequence[Tensor],
    gates: Tensor,
    affine: Grads,
    relu: bool,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """With P = U + b and s_j = sum_i g_ij P_ij, of which Y_j = relu(scale_j s_j + shift_j).

    dshift_j = sum dY_j where Y_j > 0;  dscale_j = sum s_j dshift_j;  ds_j = scale_j dshift_j;
    dU_ij = g_ij ds_j;  db_ij = sum dU_ij;  dg_ij = <P_ij, ds_j>; sums over batch and positions.
    """
    bias, scale, shift = affine
    dtype, m, n = accumulate_dtype(us[0].dtype), len(us), gates.shape[2]
    batch_and_positions = (0, *range(2, us[0].dim()))
    weights = gates.to(dtype)

    def spread(values: Tensor) -> Tensor:
        return _spread(values.to(dtype), us[0].dim() - 2)

    wide = [
        u.to(dtype) if bias is None else u.to(dtype) + spread(bias[i]) for i, u in enumerate(us)
    ]
    predictions = [p.tensor_split(n, 1) for p in wide]
    of_gates, of_bias, of_scale, of_shift = wanted[m:]
    grad_sums: list[Tensor | None] = []  # None where nothing uses an output: it adds nothing
    grad_scale, grad_shift = [], []
    for j, grad in enumerate(_wide(grad_ys, dtype)):
        terms = [spread(weights[:, i, j, None]) * predictions[i][j] for i in range(m)]
        total = _sum(terms, predictions[0][j])
        y = total if scale is None else spread(scale[j]) * total
        y = y if shift is None else y + spread(shift[j])
        if grad is not None and relu:
            grad = _through_relu(grad, y)
        grad_sums.append(grad if grad is None or scale is None else spread(scale[j]) * grad)
        nothing = torch.zeros_like(total)
        grad_scale.append((nothing if grad is None else grad * total).sum(batch_and_positions))
        grad_shift.append((nothing if grad is None else grad).sum(batch_and_positions))

    def of_prediction(i: int, j: int) -> Tensor:
        grad = grad_sums[j]
        if grad is None:
            return torch.zeros_like(predictions[i][j])
        return spread(weights[:, i, j, None]) * grad

    def of_gate(i: int, j: int) -> Tensor:
        grad = grad_sums[j]
        if grad is None:
            return torch.zeros_like(weights[:, i, j])
        return (predictions[i][j] * grad).sum(tuple(range(1, us[0].dim())))

    grad_us = [torch.cat([of_prediction(i, j) for j in range(n)], 1) for i in range(m)]
    results = [grad.to(u.dtype) for u, grad, w in zip(us, grad_us, wanted) if w]
    if of_gates:
        rows = [torch.stack([of_gate(i, j) for j in range(n)], 1) for i in range(m)]
        results.append(torch.stack(rows, 1).to(gates.dtype))
    if of_bias and bias is not None:
        sums = [grad.sum(batch_and_positions) for grad in grad_us]
        results.append(torch.stack(sums).to(bias.dtype))
    if of_scale and scale is not None:
        results.append(torch.stack(grad_scale).to(scale.dtype))
    if of_shift and shift is not None:
        results.append(torch.stack(grad_shift).to(shift.dtype))
    return results


def cross_predict(
    grads: Grads,
    xs: Sequence[Tensor],
    weight: Tensor,
    affine: Grads,
    parameters: Grads,
    kind: int,
    relu: bool,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """`combine` of U_i = W_i X_i and `gate`: dW_i = dU_i^T X_i;  dX_i = W_i^T dU_i + dZ_i."""
    pooled = torch.stack(list(xs), 1)
    gates = gate_of(xs, *parameters, kind=KINDS[kind])  # type: ignore[arg-type]
    us = [linear(x, w) for x, w in zip(xs, weight.unbind())]

    def of_gate(
        grad: Tensor, z: Tensor, parameters: Grads, flags: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor]]:
        return gate(grad, z, parameters, kind, flags)

    return of_predictions(
        grads, pooled, gates, us, xs, weight, affine, parameters, relu, wanted, combine, of_gate
    )


def of_predictions(
    grads: Grads,
    pooled: Tensor,
    gates: Tensor,
    us: Sequence[Tensor],
    xs: Sequence[Tensor],
    weight: Tensor,
    affine: Grads,
    parameters: Grads,
    relu: bool,
    wanted: Sequence[bool],
    of_combine: Callable[..., list[Tensor]],
    of_gate: Callable[..., tuple[Tensor, list[Tensor]]],
) -> list[Tensor]:
    """`cross_predict` with what its forward computed, by these gradients of its parts."""
    m = len(xs)
    *grad_ys, grad_gates = grads
    of_weight, of_affine, of_parameters = wanted[m], wanted[m + 1 : m + 4], wanted[m + 4 :]
    flags = (*(True,) * (m + 1), *of_affine)
    results = of_combine(grad_ys, us, gates, affine, relu, flags)
    grad_us, grad_g, grad_affine = results[:m], results[m], results[m + 1 :]
    if grad_gates is not None:
        grad_g = grad_g + grad_gates.to(grad_g.dtype)
    grad_pooled, grad_parameters = of_gate(grad_g, pooled, parameters, of_parameters)
    grad_xs = [grad_us[i] @ weight[i] + grad_pooled[:, i] for i in range(m) if wanted[i]]
    grad_weight = [torch.stack([grad.T @ x for grad, x in zip(grad_us, xs)])] if of_weight else []
    return [*grad_xs, *grad_weight, *grad_affine, *grad_parameters]
