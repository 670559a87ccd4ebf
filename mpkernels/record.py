"""Records what routers decide: gates, the scores behind them, and the pooled inputs of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mpkernels.eager.functional import pool, scores_of, without_autocast
from mpkernels.eager.modules import Gated
from mpkernels.eager.router import Router
from mpkernels.ops.internals import in_backward

Call = dict[str, Tensor]  # "gates", and of routers with gates of their own "scores" and "pooled"


class Recorded:
    """The calls of one router, in the order in which they were made.

    Images of several calls, and of a router called several times, follow one another.
    """

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._own = 0  # how many of them have memory of their own

    def __len__(self) -> int:
        """How many calls there were."""
        return len(self._calls)

    def _joined(self, what: str) -> Tensor:
        if not self._calls:
            raise ValueError(f"no {what} were recorded: the router was not called")
        if what not in self._calls[0]:
            raise ValueError(
                f"a CrossStitch has no {what}: its weights are the same for all images"
            )
        return torch.cat([call[what] for call in self._calls])

    @property
    def gates(self) -> Tensor:
        """The gates that were used, [B, m, n]."""
        return self._joined("gates")

    @property
    def scores(self) -> Tensor:
        """What the softmax of the router's own gates is taken of, [B, m, n]."""
        return self._joined("scores")

    @property
    def pooled(self) -> Tensor:
        """Z, the mean of each path over its positions, [B, m, C]."""
        return self._joined("pooled")

    def gather(self) -> None:
        """Takes in the calls of all processes of torch.distributed, in order of rank, detached.

        Every process has to call it.
        """
        own = [{name: t.detach().cpu() for name, t in call.items()} for call in self._calls]
        of_ranks: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(of_ranks, own)
        device = self._calls[0]["gates"].device if self._calls else "cpu"
        calls = [call for calls in of_ranks for call in calls]
        self._calls[:] = [{name: t.to(device) for name, t in call.items()} for call in calls]
        self._own = len(self._calls)

    def settle(self) -> None:
        """Copies what is not yet: a compiled model may write its next outputs over it."""
        for at in range(self._own, len(self._calls)):
            self._calls[at] = {name: t.clone() for name, t in self._calls[at].items()}
        self._own = len(self._calls)


def _listener(keep: Callable[[Call], None], detach: bool) -> Callable[..., None]:
    def listen(router: Router, paths: list[Tensor], gates: Tensor, pooled: Tensor | None) -> None:
        # Checkpointing runs a forward a second time, within the backward.
        if not torch.compiler.is_compiling() and in_backward():
            return
        call = {"gates": gates.detach() if detach else gates}
        if isinstance(router, Gated):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
                # The operator's own is without a gradient.
                if pooled is None or not detach:
                    pooled = torch.stack([pool(x) for x in paths], 1)
                with without_autocast(pooled.device.type):
                    scores = scores_of(pooled, router.w1, router.b1, router.w2, router.b2)
            call |= {"scores": scores, "pooled": pooled.detach() if detach else pooled}
        keep(call)

    return listen


def routers_of(function: str, model: nn.Module) -> dict[str, Router]:
    """The routers of a model, by their names in it."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be a module, got {type(model).__name__}")
    found = {name: m for name, m in model.named_modules() if isinstance(m, Router)}
    # What torch.compile returned holds the model as its only child.
    return {name.removeprefix("_orig_mod."): router for name, router in found.items()}


@contextmanager
def record(
    model: nn.Module,
    *,
    detach: bool = True,
    take: Callable[[str, Call], None] | None = None,
) -> Iterator[dict[str, Recorded]]:
    """Records every call of the routers of `model`, by name, until the context is left.

    It works for eager and fused routers and for those that a compiled model holds, whether it was
    compiled before or within the context; its graph is made anew, once with and once without. What
    a model that torch.compile returned leaves in memory of its own (CUDA graphs) is copied when it
    returns; for a function or `model.compile()` so compiled, read it before the next call. A
    checkpointed router is recorded as it runs forward, not again in the backward. Calls of other
    processes come with `Recorded.gather()`. Maps are read once more where routers do not return
    their means anyway: by eager routers, and with `detach=False`.

    Args:
        model: any module that holds routers, or is one.
        detach: False keeps gradients: of losses on gates, scores or pooled inputs.
        take: is given each call, (name of the router, its tensors by name), instead of `Recorded`:
            for sums over more images than memory holds.

    Yields:
        name of the router (as in `named_modules`) -> `Recorded`: `gates` [B, m, n], `scores`
        [B, m, n], `pooled` [B, m, C], `len()` of calls. A CrossStitch has gates alone.

    Raises:
        TypeError: model is no module.

    Example:
        >>> model = nn.Sequential(CrossConnect(4, inputs=1, outputs=3))
        >>> with record(model) as recorded:
        ...     for _ in range(2):
        ...         ys = model(torch.randn(8, 4, 5, 5))
        >>> tuple(recorded["0"].gates.shape)
        (16, 1, 3)
    """
    routers = routers_of("record", model)
    recorded = {name: Recorded() for name in routers}
    listeners = {
        name: _listener(partial(take, name) if take else recorded[name]._calls.append, detach)
        for name in routers
    }

    def settle(*ignored: Any) -> None:
        for each in recorded.values():
            each.settle()

    returned = model.register_forward_hook(settle) if hasattr(model, "_orig_mod") else None
    try:
        for name, router in routers.items():
            router._listeners = (*router._listeners, listeners[name])
        yield recorded
    finally:
        if returned is not None:
            returned.remove()
        for name, router in routers.items():
            router._listeners = tuple(x for x in router._listeners if x is not listeners[name])
