"""Values in float64, each with a bound on the error a kernel may make.

Errors of intermediate values are propagated through the formulas of the operators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proof.closeness import gamma


@dataclass
class Bounded:
    """A float64 value and a bound on the error a kernel may make in it."""

    value: Tensor
    error: Tensor


def _sum_paths(weights: Tensor, weight_errors: Tensor, maps: Tensor, terms: float) -> Tensor:
    """Error of sum_i w_i x_i: `weights` [m, B, 1...], `maps` [m, B, C, *spatial]."""
    return (weight_errors * maps.abs() + terms * weights.abs() * maps.abs()).sum(0)


class GateBounds:
    """Bounds on the pooled values, hidden units and gates of all paths, [B, m, ...]."""

    def __init__(
        self, xs: list[Tensor], parameters: list[Tensor | None], a: float, kind: str = "softmax"
    ) -> None:
        w1, b1, w2, b2 = parameters
        assert w1 is not None and w2 is not None
        self.a, self.w1, self.w2, self.kind = a, w1, w2, kind
        self.positions = math.prod(xs[0].shape[2:])
        hidden, channels = w1.shape[1:]
        flat = torch.stack([x.flatten(2) if x.dim() > 2 else x.unsqueeze(2) for x in xs], 1)
        z = flat.mean(3)
        z_error = gamma(self.positions + 2, a) * flat.abs().mean(3)
        pre = torch.einsum("mkc,bmc->bmk", w1, z)
        size = torch.einsum("mkc,bmc->bmk", w1.abs(), z.abs())
        if b1 is not None:
            pre, size = pre + b1, size + b1.abs()
        pre_error = torch.einsum("mkc,bmc->bmk", w1.abs(), z_error) + gamma(channels + 3, a) * size
        self.z, self.h = Bounded(z, z_error), Bounded(pre.relu(), pre_error)
        # A unit closer to 0 than its error may be on or off, so its whole gradient is uncertain.
        self.on, self.uncertain = (pre > 0).double(), (pre.abs() <= pre_error).double()
        logits = torch.einsum("mnk,bmk->bmn", w2, self.h.value)
        size = torch.einsum("mnk,bmk->bmn", w2.abs(), self.h.value)
        if b2 is not None:
            logits, size = logits + b2, size + b2.abs()
        error = torch.einsum("mnk,bmk->bmn", w2.abs(), pre_error) + gamma(hidden + 3, a) * size
        g = logits.softmax(-1)
        # exp amplifies the error of its argument; exp, the sum and the quotient add some ulps.
        largest = error.amax(-1, keepdim=True)
        spread = (logits.amax(-1, keepdim=True) - logits).abs()
        relative = a * (spread + spread.amax(-1, keepdim=True) + g.shape[-1] + 10)
        self.g = Bounded(g, g * (torch.exp(2 * largest) * (1 + relative) - 1))

    def backward(self, d: Bounded) -> tuple[Bounded, Bounded, Bounded]:
        """Bounds on dA [B, m, n], dH [B, m, K] and dZ [B, m, C], given d = dL/dG."""
        a, g, n = self.a, self.g, self.w2.shape[1]
        mean = (g.value * d.value).sum(-1, keepdim=True)
        size = (g.value * d.value.abs()).sum(-1, keepdim=True)
        mean_error = ((g.error * (d.value.abs() + d.error)) + g.value * d.error).sum(
            -1, keepdim=True
        )
        mean_error = mean_error + gamma(n + 1, a) * size
        da = g.value * (d.value - mean)
        difference = d.error + mean_error + 3 * a * (d.value.abs() + mean.abs())
        da_error = g.error * (d.value - mean).abs() + (g.value + g.error) * difference
        return self._through(Bounded(da, da_error))

    def _through(self, da: Bounded) -> tuple[Bounded, Bounded, Bounded]:
        a, n = self.a, self.w2.shape[1]
        back = torch.einsum("mnk,bmn->bmk", self.w2, da.value)
        size = torch.einsum("mnk,bmn->bmk", self.w2.abs(), da.value.abs())
        error = torch.einsum("mnk,bmn->bmk", self.w2.abs(), da.error) + gamma(n + 2, a) * size
        dh = self.on * back
        dh_error = torch.maximum(self.on, self.uncertain) * error + self.uncertain * back.abs()
        dz = torch.einsum("mkc,bmk->bmc", self.w1, dh)
        size = torch.einsum("mkc,bmk->bmc", self.w1.abs(), dh.abs())
        dz_error = torch.einsum("mkc,bmk->bmc", self.w1.abs(), dh_error)
        dz_error = dz_error + gamma(self.w1.shape[1] + 2, a) * size
        return da, Bounded(dh, dh_error), Bounded(dz, dz_error)

    def parameters(self, da: Bounded, dh: Bounded) -> dict[str, Bounded]:
        """Bounds on dW1, db1, dW2 and db2, which are sums over the batch."""
        terms = gamma(da.value.shape[0] + 2, self.a)

        def outer(left: Bounded, right: Bounded) -> Bounded:
            def product(x: Tensor, y: Tensor) -> Tensor:
                return torch.einsum("bmp,bmq->mpq", x, y)

            size = product(left.value.abs(), right.value.abs())
            error = product(left.error, right.value.abs() + right.error)
            error = error + product(left.value.abs(), right.error) + terms * size
            return Bounded(product(left.value, right.value), error)

        def total(t: Bounded) -> Bounded:
            return Bounded(t.value.sum(0), t.error.sum(0) + terms * t.value.abs().sum(0))

        return {
            "w1": outer(dh, self.z), "b1": total(dh), "w2": outer(da, self.h), "b2": total(da)
        }  # fmt: skip


def dot_bound(x: Tensor, y: Tensor, a: float, dims: tuple[int, ...]) -> Tensor:
    """Error of a sum of products over `dims`."""
    terms = math.prod(x.shape[d] for d in dims)
    return gamma(terms + 2, a) * (x.abs() * y.abs()).sum(dims)


def over_maps(weights: Tensor, dims: int) -> Tensor:
    """Gates [B, m, n] as [m, n, B, 1, ...], to multiply maps of `dims` dimensions."""
    return weights.permute(1, 2, 0)[(...,) + (None,) * (dims - 1)]


def mixed_error(g: Bounded, maps: Tensor, a: float, transposed: bool = False) -> list[Tensor]:
    """Errors of sum_i g_ij X_i for each j, or of sum_j g_ij Y_j for each i."""
    dims = maps.dim() - 1
    value, error = over_maps(g.value, dims), over_maps(g.error, dims)
    if transposed:
        value, error = value.transpose(0, 1), error.transpose(0, 1)
    terms = gamma(maps.shape[0] + 2, a)
    return [_sum_paths(value[:, j], error[:, j], maps, terms) for j in range(value.shape[1])]


def _per_channel(values: Tensor, dims: int) -> Tensor:
    """[..., n, C] as [..., n, 1, C, 1, ...], to broadcast with maps [n, B, C, *spatial]."""
    return values.unsqueeze(-2)[(...,) + (None,) * (dims - 2)]


class CombineBounds:
    """Bounds on everything that combine computes, from float64 values.

    Args:
        us: m predictions [B, n*C, *spatial].
        parameters: gates [B, m, n], bias [m, n*C], scale [n, C], shift [n, C]; None if absent.
        relu: whether the last step is a ReLU.
        a: unit roundoff of the accumulate dtype.
    """

    def __init__(
        self, us: list[Tensor], parameters: list[Tensor | None], relu: bool, a: float
    ) -> None:
        gates, bias, scale, shift = parameters
        assert gates is not None
        n, dims = gates.shape[2], us[0].dim()
        self.a, self.dims = a, dims
        split = torch.stack([torch.stack(u.tensor_split(n, 1)) for u in us])  # [m, n, B, C, ...]
        self.g = over_maps(gates, dims)
        one = torch.ones(()).double()
        b = 0 * one if bias is None else _per_channel(bias.unflatten(1, (n, -1)), dims)
        self.scale = one if scale is None else _per_channel(scale, dims)
        offset = 0 * one if shift is None else _per_channel(shift, dims)
        self.predictions, self.sizes = split + b, split.abs() + b.abs()
        terms = gamma(2 * len(us) + 4, a)
        self.t_size = sum_size = (self.g * self.sizes).abs().sum(0)
        self.t = Bounded((self.g * self.predictions).sum(0), terms * sum_size)
        y = self.scale * self.t.value + offset
        error = terms * (self.scale.abs() * sum_size + offset.abs())
        self.y = Bounded(y.relu() if relu else y, error)
        # An output closer to 0 than its error may be on or off, so its gradient is uncertain.
        self.on = (y > 0).double() if relu else torch.ones_like(y)
        self.uncertain = (y.abs() <= error).double() if relu else torch.zeros_like(y)

    def backward(self, grad_ys: Tensor) -> dict[str, Bounded]:
        """Bounds on the gradients of `us` [m, ...] and the parameters, given dY [n, B, C, ...]."""
        a, dims = self.a, self.dims
        d = Bounded(self.on * grad_ys, self.uncertain * grad_ys.abs())
        scaled = Bounded(self.scale * d.value, self.scale.abs() * d.error)
        places = tuple(range(3, dims + 1))  # axes of positions, which follow [n, B, C]

        def sums(value: Tensor, error: Tensor, size: Tensor, axes: tuple[int, ...]) -> Bounded:
            terms = gamma(math.prod(value.shape[axis] for axis in axes) + 2 * len(self.g) + 8, a)
            if not axes:
                return Bounded(value, error + terms * size)
            return Bounded(value.sum(axes), error.sum(axes) + terms * size.sum(axes))

        def flat(t: Tensor) -> Tensor:  # merges the outputs of [m, n, ...] into the channels
            return torch.cat(list(t.unbind(1)), 2 if t.dim() > 3 else 1)

        u = Bounded(self.g * scaled.value, self.g.abs() * scaled.error)
        u.error = u.error + gamma(4, a) * u.value.abs()
        most = d.value.abs() + d.error
        grad_gates = sums(
            scaled.value * self.predictions,
            scaled.error * self.sizes,
            (self.scale * most).abs() * self.sizes,
            tuple(x + 1 for x in (2, *places)),
        )
        along = (1, *places)
        grad_bias = sums(u.value, u.error, u.value.abs(), tuple(x + 1 for x in along))
        return {
            "us": Bounded(flat(u.value), flat(u.error)),
            "gates": Bounded(grad_gates.value.permute(2, 0, 1), grad_gates.error.permute(2, 0, 1)),
            "bias": Bounded(flat(grad_bias.value), flat(grad_bias.error)),
            "scale": sums(
                d.value * self.t.value,
                d.error * self.t_size + d.value.abs() * self.t.error,
                most * self.t_size,
                along,
            ),
            "shift": sums(d.value, d.error, d.value.abs(), along),
        }


class PredictBounds:
    """Bounds on everything that cross_predict computes for vectors.

    Predictions have errors of their own, which are propagated through the bounds of combine.

    Args:
        layer: the problem, from proof.problems.layers.
        xs: float64 vectors.
        parameters: float64 values by name; None if absent.
        a: unit roundoff of the dtype.
        kind: of the gates.
    """

    def __init__(self, layer, xs, parameters, a, kind) -> None:
        self.a, self.xs, flat = a, xs, parameters
        self.weight = flat["weight"]
        gate = [flat[name] for name in ("w1", "b1", "w2", "b2")]
        self.gate = GateBounds(self.xs, gate, a, kind)
        us = [x @ w.T for x, w in zip(self.xs, self.weight)]
        self.u_errors = [
            gamma(layer.channels + 1, a) * (x.abs() @ w.abs().T)
            for x, w in zip(self.xs, self.weight)
        ]
        parameters = [self.gate.g.value, flat["bias"], flat["scale"], flat["shift"]]
        self.combine = CombineBounds(us, parameters, layer.relu, a)
        # Errors of gates and predictions add |dg| |p| + |g| |dp| to each sum of g p.
        combine, n = self.combine, layer.outputs
        self.p_errors = torch.stack([torch.stack(e.tensor_split(n, 1)) for e in self.u_errors])
        self.g_errors = self.gate.g.error.permute(1, 2, 0)[..., None]
        g, e, p = combine.g, self.g_errors, self.p_errors
        extra = (e * (combine.sizes + p) + g.abs() * p).sum(0)
        combine.t.error = combine.t.error + extra
        error = combine.y.error + combine.scale.abs() * extra * (1 + 8 * a)
        combine.y.error = error
        before = combine.scale * combine.t.value
        if flat["shift"] is not None:
            before = before + flat["shift"][:, None]
        if layer.relu:
            combine.uncertain = (before.abs() <= error).double()

    def backward(self, layer, grad_ys, grad_gates):
        """Bounds on the gradients, by name."""
        a, combine = self.a, self.combine
        grads = combine.backward(grad_ys)
        on, uncertain = combine.on * grad_ys, combine.uncertain * grad_ys.abs()
        scaled = combine.scale.abs() * (on.abs() + uncertain)  # magnitudes that reach the sums
        gate_error = (self.g_errors * scaled).sum(2)  # share of the bias, summed over the batch
        grads["bias"].error = grads["bias"].error + gate_error.flatten(1)
        through = (scaled * self.p_errors).sum(3).permute(2, 0, 1)
        value = grads["gates"].value
        error = grads["gates"].error + through
        if grad_gates is not None:
            value = value + grad_gates
            error = error + 3 * a * (value.abs() + grad_gates.abs())
        da, dh, dz = self.gate.backward(Bounded(value, error))
        grads.update(self.gate.parameters(da, dh))
        du, terms = grads.pop("us"), gamma(layer.batch + 2, a)
        m, n = layer.inputs, layer.outputs
        extra = (self.g_errors * scaled).permute(0, 2, 1, 3).reshape(m, layer.batch, -1)
        du_error = du.error + extra
        x = torch.stack(self.xs)
        outer = torch.einsum("mbr,mbc->mrc", du.value, x)
        size = torch.einsum("mbr,mbc->mrc", du.value.abs(), x.abs())
        grads["weight"] = Bounded(
            outer, torch.einsum("mbr,mbc->mrc", du_error, x.abs()) + terms * size
        )
        rows = gamma(n * layer.out_channels + 3, a)
        for i, w in enumerate(self.weight):
            back = du.value[i] @ w + dz.value[:, i]
            size = du.value[i].abs() @ w.abs() + dz.value[:, i].abs()
            error = du_error[i] @ w.abs() + dz.error[:, i] + rows * size
            grads[f"x{i}"] = Bounded(back, error)
        return grads
