"""FLOPs of the operators, for `torch.utils.flop_counter`: those of their matrix products.

As many as the counter finds in `mpkernels.eager`: two per multiplication and addition; it counts
nothing for sums, softmax and mixing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpkernels.ops import schema as schema  # defines the operators
from mpkernels.ops.flags import flags_of
from mpkernels.ops.imports import when_imported

Gate = Sequence[Any]


def _gate(batch: int, gate: Gate) -> int:
    w1, _, w2, _ = gate
    return 2 * batch * int(w1.numel() + w2.numel())


def _gate_gradients(
    batch: int, gate: Gate, of_parameters: Sequence[bool], of_paths: Sequence[bool]
) -> int:
    """Those of the wanted gradients of a gate's parameters, and of each path's pooled values."""
    of_w1, of_b1, of_w2, _ = (f and p is not None for f, p in zip(of_parameters, gate))
    w1, _, w2, _ = gate
    products = 0
    for of_path in of_paths:
        products += (of_w1 + of_path) * w1[0].numel()
        products += (of_w2 + (of_w1 or of_b1 or of_path)) * w2[0].numel()
    return 2 * batch * products


def cross_connect(xs: list[Tensor], gate: Gate, kind: int, **results: Any) -> int:
    """The gates'."""
    return _gate(xs[0].shape[0], gate)


def cross_connect_backward(
    grads: Any, kept: Any, xs: list[Tensor], gate: Gate, kind: int, wanted: int, **results: Any
) -> int:
    """The gates'."""
    flags, m = flags_of(wanted, len(xs) + len(gate)), len(xs)
    return _gate_gradients(xs[0].shape[0], gate, flags[m:], flags[:m])


def gate_backward(
    grad: Tensor, kept: Any, gate: Gate, kind: int, wanted: int, **results: Any
) -> int:
    """The gates'."""
    flags = flags_of(wanted, len(gate) + grad.shape[1])
    return _gate_gradients(grad.shape[0], gate, flags[: len(gate)], flags[len(gate) :])


def cross_predict(
    xs: list[Tensor], weight: Tensor, affine: Any, gate: Gate, *rest: Any, **results: Any
) -> int:
    """The predictions' and the gates'."""
    batch = xs[0].shape[0]
    return 2 * batch * weight.numel() + _gate(batch, gate)


def cross_predict_backward(
    grads: Any, kept: Any, xs: list[Tensor], weight: Tensor, affine: Any, gate: Gate, kind: int,
    relu: bool, wanted: int, **results: Any,
) -> int:  # fmt: skip
    """The predictions' and the gates'."""
    batch, m = xs[0].shape[0], len(xs)
    flags = flags_of(wanted, m + 1 + len(affine) + len(gate))
    products = (sum(flags[:m]) + flags[m] * m) * weight[0].numel()
    of_gate = _gate_gradients(batch, gate, flags[-len(gate) :], flags[:m])
    return 2 * batch * products + of_gate


def _register() -> None:
    from torch.utils.flop_counter import register_flop_formula

    formulas = cross_connect, cross_connect_backward, gate_backward
    for formula in (*formulas, cross_predict, cross_predict_backward):
        register_flop_formula(getattr(torch.ops.mpkernels, formula.__name__), get_raw=True)(formula)
    register_flop_formula(torch.ops.mpkernels.gate, get_raw=True)(cross_connect)


# The counter's module imports triton, which this package does not before a kernel needs it.
when_imported("torch.utils.flop_counter", lambda counter: _register())
