"""cross_predict: a whole layer of small vectors, its fake and eager kernels and its gradient.

Eq. 2 to 4. `fuses` decides where this operator runs instead of its parts: a matrix library computes
large products faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.eager import gradients
from mpkernels.eager.arguments import is_dense
from mpkernels.eager.functional import without_autocast
from mpkernels.ops import native
from mpkernels.ops.autograd import Operator, applier, place
from mpkernels.ops.check import check_cross_predict
from mpkernels.ops.differentiate import pull_back
from mpkernels.ops.layout import empty_parameters

_op = torch.ops.mpkernels.cross_predict.default
_backward_op = torch.ops.mpkernels.cross_predict_backward.default

# Eight parameters stand between xs and relu: weight, bias, w1, b1, w2, b2, scale, shift.

# Beyond this many weights in all, a matrix library's products are faster than this operator.
FUSED_WEIGHTS = 1 << 14


def is_small(x: Tensor, weight: Tensor) -> bool:
    """Whether C++ computes a layer of such vectors and weights faster than its parts."""
    wide = weight.dtype in (torch.float32, torch.float64)
    return x.dim() == 2 and x.dtype == weight.dtype and wide and weight.numel() <= FUSED_WEIGHTS


def fuses(paths: list[Any], weight: Any) -> bool:
    """Whether the operator takes these arguments, which may be anything; it reports bad ones.

    The backend in force plays no part: compiled code must be right under any that it later meets.
    """
    if native.why_no_cpu is not None or not paths:
        return False
    if not all(is_dense(t) and t.is_cpu for t in (*paths, weight)):
        return False
    return not torch.is_autocast_enabled("cpu") and is_small(paths[0], weight)


def fake(
    xs: list[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Outputs without values."""
    x, m, n = xs[0], len(xs), w2.shape[1]
    batch, rows = x.shape[0], weight.shape[1]
    ys = [x.new_empty((batch, rows // n)) for _ in range(n)]
    return ys, x.new_empty((batch, m, n)), x.new_empty((m, batch, rows))


def fake_backward(
    grad_ys: list[Tensor | None],
    grad_gates: Tensor | None,
    xs: list[Tensor],
    gates: Tensor,
    us: Tensor,
    *rest: Any,
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients without values."""
    *parameters, _, wanted = rest
    m = len(xs)
    grad_xs = [x.new_empty(x.shape) for x, w in zip(xs, wanted) if w]
    return grad_xs, empty_parameters(parameters, wanted[m:])


def run_eager(xs: list[Tensor], *rest: Any) -> tuple[list[Tensor], Tensor, Tensor]:
    """The operator by its definition."""
    *parameters, relu = rest
    check_cross_predict("cross_predict", xs, *parameters)
    weight, bias, w1, b1, w2, b2, scale, shift = parameters
    with without_autocast(xs[0].device.type):
        ys, gates = eager.cross_predict(xs, weight, bias, w1, b1, w2, b2, relu, scale, shift)
        us = torch.stack([x @ w.T for x, w in zip(xs, weight.unbind())])
    return [y.contiguous() for y in ys], gates, us


def run_eager_backward(
    grad_ys: list[Tensor | None],
    grad_gates: Tensor | None,
    xs: list[Tensor],
    gates: Tensor,
    us: Tensor,
    *rest: Any,
) -> tuple[list[Tensor], list[Tensor]]:
    """The operator's gradient by its definition."""
    weight, bias, w1, b1, w2, b2, scale, shift, relu, wanted = rest
    with without_autocast(xs[0].device.type):
        found = gradients.cross_predict(
            grad_ys, grad_gates, xs, weight, bias, w1, b1, w2, b2, scale, shift, relu, wanted
        )
    found = [grad.contiguous() for grad in found]
    count = sum(wanted[: len(xs)])
    return found[:count], found[count:]


class _CrossPredict(torch.autograd.Function):
    @staticmethod
    def forward(relu: bool, *flat: Any) -> tuple[Tensor, ...]:
        ys, gates, us = _op(flat[:-8], *flat[-8:], relu)
        return (*ys, gates, us)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.relu, *flat = inputs
        *_, gates, us = output
        ctx.mark_non_differentiable(us)
        ctx.save_for_backward(gates, us, *flat)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *grad_ys, grad_gates, _ = grads
        gates, us, *flat = saved = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[1:])
        backward = cross_predict_backward.route((*grads[:-1], *saved))
        grad_xs, grad_parameters = backward(
            grad_ys, grad_gates, flat[:-8], gates, us, *flat[-8:], ctx.relu, wanted
        )
        return (None, *place(grad_xs + grad_parameters, wanted))


class _CrossPredictBackward(torch.autograd.Function):
    """The gradient, differentiable: through its definition."""

    @staticmethod
    def forward(relu: bool, wanted: list[bool], n: int, *flat: Any) -> tuple[Tensor, ...]:
        grad_ys, (grad_gates, gates, us, *inputs) = list(flat[:n]), flat[n:]
        grad_xs, grad_parameters = _backward_op(
            grad_ys, grad_gates, inputs[:-8], gates, us, *inputs[-8:], relu, wanted
        )
        return (*grad_xs, *grad_parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.relu, ctx.wanted, ctx.n, *flat = inputs
        grads, (_, _, *rest) = flat[: ctx.n + 1], flat[ctx.n + 1 :]
        ctx.save_for_backward(*grads, *rest)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        def first(flat: list[Any]) -> list[Tensor]:
            grad_ys, (grad_gates, *inputs) = flat[: ctx.n], flat[ctx.n :]
            xs, parameters = inputs[:-8], inputs[-8:]
            unused = xs[0]  # gates and us follow from the inputs
            grad_xs, grad_parameters = run_eager_backward(
                grad_ys, grad_gates, xs, unused, unused, *parameters, ctx.relu, ctx.wanted
            )
            return grad_xs + grad_parameters

        found = pull_back(first, ctx.saved_tensors, grads)
        return (None, None, None, *found[: ctx.n + 1], None, None, *found[ctx.n + 1 :])


_apply, _apply_backward = applier(_CrossPredict), applier(_CrossPredictBackward)


def _differentiable(xs: list[Tensor], *rest: Any) -> Any:
    *parameters, relu = rest
    *ys, gates, us = _apply(relu, *xs, *parameters)
    return ys, gates, us


def _differentiable_backward(
    grad_ys: list[Tensor | None],
    grad_gates: Tensor | None,
    xs: list[Tensor],
    gates: Tensor,
    us: Tensor,
    *rest: Any,
) -> Any:
    *parameters, relu, wanted = rest
    flat = _apply_backward(
        relu, wanted, len(grad_ys), *grad_ys, grad_gates, gates, us, *xs, *parameters
    )
    count = sum(wanted[: len(xs)])
    return list(flat[:count]), list(flat[count:])


cross_predict = Operator("cross_predict", _differentiable, run_eager)
cross_predict_backward = Operator(
    "cross_predict_backward", _differentiable_backward, run_eager_backward
)
