"""What a fused router is compared with: the same router as people write it in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from mpkernels import functional

Router = Callable[..., list[Tensor]]
Function = TypeVar("Function", bound=Callable[..., Any])


def loops(xs: list[Tensor], w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> list[Tensor]:
    """One gate after the other, one sum per output; gates have the parameters' dtype."""
    gates = []
    for i, x in enumerate(xs):
        z = (x.flatten(2).mean(2) if x.dim() > 2 else x).to(w1.dtype)
        g = linear(linear(z, w1[i], b1[i]).relu(), w2[i], b2[i]).softmax(-1)
        gates.append(g.to(x.dtype))
    trailing = (None,) * (xs[0].dim() - 1)
    return [
        sum(g[(slice(None), j, *trailing)] * x for g, x in zip(gates, xs))  # type: ignore[misc]
        for j in range(w2.shape[1])
    ]


def stacked(xs: list[Tensor], w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> list[Tensor]:
    """All paths in one tensor, sums as einsum; gates have the parameters' dtype."""
    x = torch.stack(xs, 1)
    z = (x.flatten(3).mean(3) if x.dim() > 3 else x).to(w1.dtype)
    h = (torch.einsum("bmc,mkc->bmk", z, w1) + b1).relu()
    gates = (torch.einsum("bmk,mnk->bmn", h, w2) + b2).softmax(-1).to(x.dtype)
    return list(torch.einsum("bmn,bm...->nb...", gates, x).unbind(0))


def fused(xs: list[Tensor], w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> list[Tensor]:
    """The operator of this package."""
    return functional.cross_connect(xs, w1, b1, w2, b2)[0]


ROUTERS = ("loops", "stacked", "compile", "max-autotune", "fused")


def contenders(
    names: Iterable[str], loops: Function, stacked: Function, fused: Function
) -> dict[str, Function]:
    """The named ways to compute one thing, in the order of ROUTERS.

    Both compiled ones are the loops; they compile at their first call, anew each time.
    """
    torch._dynamo.reset()
    ways = {
        "loops": loops,
        "stacked": stacked,
        "compile": torch.compile(loops, dynamic=False),
        "max-autotune": torch.compile(loops, dynamic=False, mode="max-autotune"),
        "fused": fused,
    }
    return {name: ways[name] for name in ROUTERS if name in names}


def routers(names: Iterable[str]) -> dict[str, Router]:
    """The named ways to compute a router; see `contenders`."""
    return contenders(names, loops, stacked, fused)
