"""torch.fx records a router as one node, as it records PyTorch's own layers."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy


def tracer_of(xs: Any) -> Any:
    """The tracer of torch.fx that records the call of a router with these paths, or None."""
    for x in xs if type(xs) in (list, tuple) else (xs,):
        if isinstance(x, Proxy):
            return x.tracer
    return None


def record(
    tracer: Any, router: nn.Module, outputs: int, xs: Any, return_gates: bool, gates: Any
) -> Any:
    """What the router returns, each tensor recorded.

    Raises:
        TypeError: the router itself is traced, not a module that holds it.
    """
    if tracer.root is router:
        kind = type(router).__name__
        raise TypeError(f"torch.fx records a {kind} as one node: trace a module that holds it")
    options = {"return_gates": True} if return_gates else {}
    options |= {} if gates is None else {"gates": gates}
    results = tracer.create_proxy("call_module", tracer.path_of_module(router), (xs,), options)
    ys = results[0] if return_gates else results
    maps = tuple(ys[j] for j in range(outputs))
    return (maps, results[1]) if return_gates else maps
