"""Cross-prediction routers: the gate, PyTorch's convolutions or dense layers, then `combine`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpkernels import modules
from mpkernels.eager.arguments import check_dtype
from mpkernels.eager.cross_prediction import CrossPredict
from mpkernels.explain.choice import choose, instruction_set
from mpkernels.explain.copies import copies
from mpkernels.explain.explanation import Cost, Explanation, Step, readable
from mpkernels.fold import why_not_folded
from mpkernels.ops.check import check_gate
from mpkernels.ops.cross_predict import is_small
from mpkernels.ops.layout import Geometry, empty_map, geometry_of, is_channels_last
from mpkernels.triton.launch import combine_grad_launches, parameter_launches

_OPERATORS = ("gate", "gate_backward", "combine", "combine_backward")


@dataclass(frozen=True)
class _Problem:
    """What decides the cost; tensors are on meta."""

    backend: str
    xs: list[Tensor]
    us: list[Tensor]
    outputs: int
    biased: bool
    folded: bool  # batch norms are a scale and a shift of combine
    relu: bool  # is combine's
    together: bool  # gate, dense layers and combine are one operator

    @property
    def geometry(self) -> Geometry:
        """Of one output."""
        channels = self.us[0].shape[1] // self.outputs
        return geometry_of(self.us[0])._replace(channels=channels)

    @property
    def itemsize(self) -> int:
        return self.us[0].element_size()


def _meta(t: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=dtype, device="meta")


def _predictions(router: CrossPredict, xs: list[Tensor], device: str) -> list[Tensor]:
    """The us, in the memory format that PyTorch's convolutions give them."""
    # cuDNN has no channels_last in float64.
    follows = xs[0].dim() == 4 and (device, xs[0].dtype) != ("cuda", torch.float64)
    us = []
    for x, weight in zip(xs, router.weight.unbind()):
        u = router._predict(x, _meta(weight, x.dtype))
        us.append(empty_map(u, follows and (is_channels_last(x) or is_channels_last(weight))))
    return us


def _gate_step(problem: _Problem) -> Step:
    xs = problem.xs
    one = xs[0].numel() * problem.itemsize
    what = f"G of {len(xs)} paths"
    if problem.backend == "eager":
        return Step("gate", what, Cost(None, len(xs) * one, len(xs) * one))
    copied, _, _ = copies(xs, "xs")
    forward = Cost(1 + copied, len(xs) * one, (len(xs) + 2 * copied) * one)
    launches = 1 if problem.backend == "native" else 1 + parameter_launches(len(xs[0]))
    return Step("gate", what, forward, Cost(launches, 0, 0))


def _predict_step(router: CrossPredict, problem: _Problem) -> Step:
    x, u, n = problem.xs[0], problem.us[0], problem.outputs
    kind = "convolution" if x.dim() == 4 else "dense layer"
    many = f"{len(problem.us)} {kind}s, one per path" if len(problem.us) > 1 else kind
    sizes = ", ".join([str(len(u)), f"{n} x {u.shape[1] // n}", *map(str, u.shape[2:])])
    whose = "C++'s" if problem.together else "PyTorch's"
    return Step("predict", f"{whose} {many}: X {list(x.shape)} to U [{sizes}]")


def _combine_costs(problem: _Problem) -> tuple[Cost, Cost, list[str]]:
    m, n = len(problem.us), problem.outputs
    one = problem.us[0].numel() // n * problem.itemsize
    floors = (m * n + n) * one, (2 * m * n + n) * one
    if problem.backend == "eager":
        # Biases, products, sums, then scale, shift and ReLU: each reads and writes whole maps.
        maps = n * (5 * m - 3) + 2 * m * n * problem.biased
        maps += 2 * n * (2 * problem.folded + problem.relu)
        return Cost(None, floors[0], maps * one), Cost(None, floors[1], 3 * maps * one), []
    forward_copies, backward_copies, notes = copies(problem.us, "us")
    launches = 1
    if problem.backend == "triton":
        parameters = problem.biased or problem.folded
        launches = combine_grad_launches(problem.geometry, problem.itemsize, m, parameters)

    def cost(launches: int, floor: int, copied: int) -> Cost:
        return Cost(launches + copied, floor, floor + 2 * copied * n * one)

    forward = cost(1, floors[0], forward_copies)
    return forward, cost(launches, floors[1], backward_copies), notes


def _norms_step(router: CrossPredict, problem: _Problem) -> Sequence[Step]:
    if not router.norms or problem.folded:
        return ()
    relu = ", then ReLU" if router.relu else ""
    reason = why_not_folded(router)
    why = f"; not folded: {reason}" if reason else ""
    return (Step("norms", f"PyTorch's {len(router.norms)}, one per output{relu}{why}"),)


def explain_combining(
    router: CrossPredict, xs: list[Tensor], device: str, dtype: torch.dtype
) -> Explanation:
    """Of all that the router runs on the meta tensors xs, which it sees in `dtype` on `device`."""
    check_dtype(xs[0], router.weight, device)
    parameters = (router.w1, router.b1, router.w2, router.b2)
    w1, b1, w2, b2 = (None if p is None else p.to("meta") for p in parameters)
    assert w1 is not None and w2 is not None
    check_gate("explain", xs, w1, b1, w2, b2)
    backend, notes = choose(router, device, _OPERATORS)
    fused = isinstance(router, (modules.CrossPredictConv2d, modules.CrossPredictLinear))
    folded = fused and len(router.norms) > 0 and why_not_folded(router) is None
    seen = [_meta(x, dtype) for x in xs]
    problem = _Problem(
        backend,
        seen,
        _predictions(router, seen, device),
        router.outputs,
        router.bias is not None,
        folded,
        router.relu and (folded or not router.norms),
        (backend, device) == ("native", "cpu") and is_small(seen[0], router.weight),
    )
    forward, backward, why = _combine_costs(problem)
    notes += why + (copies(seen, "xs")[2] if backend != "eager" else [])
    if problem.together:
        notes.append("gate, dense layers and combine are one operator, cross_predict")
    elif backend != "eager":
        again = readable(2 * sum(x.numel() * problem.itemsize for x in seen))
        notes.append(f"autograd adds the gates' part of dX to the convolutions': {again} moved")
    if folded:
        notes.append("the batch norms are in eval mode: a scale and a shift of combine")
    instructions = instruction_set(backend, device)
    return Explanation(
        "combine",
        device,
        backend,
        None,
        instructions,
        forward,
        backward,
        tuple(notes),
        (_gate_step(problem), _predict_step(router, problem)),
        tuple(_norms_step(router, problem)),
    )
