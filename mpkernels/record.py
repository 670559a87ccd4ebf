"""Records what routers decide: gates, the scores behind them, and the pooled inputs of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mpkernels.eager.functional import follow_autocast, pool, scores_of, without_autocast
from mpkernels.eager.modules import Gated
from mpkernels.eager.router import Router
from mpkernels.ops.internals import in_backward

Call = dict[str, Tensor]  # "gates", and of routers with gates of their own "scores" and "pooled"


class _Box:
    """The listener of one router, for good: a compiled graph is made for this object.

    It holds the calls of one run of a model. Whatever outlives the run is outside of the graph.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.takers: list[Callable[[Call], None]] = []
        self.detach = True

    def __call__(
        self, router: Router, paths: list[Tensor], gates: Tensor, pooled: Tensor | None
    ) -> None:
        # Checkpointing runs a forward a second time, within the backward: with the same steps.
        again = not torch.compiler.is_compiling() and in_backward()
        call = {"gates": gates.detach() if self.detach else gates}
        if isinstance(router, Gated):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach):
                # The operator's own is without a gradient.
                if pooled is None or not self.detach:
                    pooled = torch.stack([pool(x) for x in follow_autocast(paths)], 1)
                with without_autocast(pooled.device.type):
                    scores = scores_of(pooled, router.w1, router.b1, router.w2, router.b2)
            call |= {"scores": scores, "pooled": pooled.detach() if self.detach else pooled}
        if not again:
            self.calls.append(call)

    def settle(self, copy: bool) -> None:
        """Gives the calls to all who take them, copied where their memory may be used again."""
        calls, self.calls = self.calls, []
        for call in calls:
            own = {name: t.clone() for name, t in call.items()} if copy else call
            for take in self.takers:
                take(own)


class _Settle:
    """A hook that settles boxes; copies of a model, and files of it, have one that settles none."""

    def __init__(self, boxes: Iterable[_Box] = (), copy: bool = False) -> None:
        self._boxes, self._copy = tuple(boxes), copy

    def __call__(self, *ignored: Any) -> None:
        for box in self._boxes:
            box.settle(self._copy)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Settle, ()


class Recorded:
    """The calls of one router, in the order in which they were made.

    Images of several calls, and of a router called several times, follow one another.
    """

    def __init__(self, settle: Callable[[], None]) -> None:
        self._calls: list[Call] = []
        self._settle = settle

    def __len__(self) -> int:
        """How many calls there were."""
        self._settle()
        return len(self._calls)

    def _joined(self, what: str) -> Tensor:
        if not len(self):
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
        self._settle()
        own = [{name: t.detach().cpu() for name, t in call.items()} for call in self._calls]
        of_ranks: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(of_ranks, own)
        device = self._calls[0]["gates"].device if self._calls else "cpu"
        calls = [call for calls in of_ranks for call in calls]
        self._calls[:] = [{name: t.to(device) for name, t in call.items()} for call in calls]


def routers_of(function: str, model: nn.Module) -> dict[str, Router]:
    """The routers of a model, by their names in it."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be a module, got {type(model).__name__}")
    # What torch.compile returned holds the model as its only child.
    model = getattr(model, "_orig_mod", model)
    return {name: m for name, m in model.named_modules() if isinstance(m, Router)}


@contextmanager
def _after_each_call(model: nn.Module, settle: Callable[..., None]) -> Iterator[None]:
    """Calls `settle` whenever the model returns, outside of what is compiled."""
    compiled = getattr(model, "_compiled_call_impl", None)  # of model.compile(), hooks included
    if compiled is None:
        hook = model.register_forward_hook(settle)
        try:
            yield
        finally:
            hook.remove()
        return

    def run(*arguments: Any, **named: Any) -> Any:
        result = compiled(*arguments, **named)
        settle()
        return result

    model._compiled_call_impl = run  # type: ignore[assignment]
    try:
        yield
    finally:
        model._compiled_call_impl = compiled  # type: ignore[assignment]


@contextmanager
def record(
    model: nn.Module,
    *,
    detach: bool = True,
    take: Callable[[str, Call], None] | None = None,
) -> Iterator[dict[str, Recorded]]:
    """Records every call of the routers of `model`, by name, until the context is left.

    It works for eager and fused routers and for a model that torch.compile returned or
    `model.compile()` compiled, before or within the context: one graph is made with recording and
    one without, and what CUDA graphs leave in memory of their own is copied. In a larger function
    that is compiled whole, every call would make a new graph: compile the model instead. A
    checkpointed router is recorded as it runs forward, not again in the backward. Calls of other
    processes come with `Recorded.gather()`. Maps are read once more where routers do not return
    their means anyway: by eager routers, and with `detach=False`.

    Args:
        model: any module that holds routers, or is one.
        detach: False keeps gradients: of losses on gates, scores or pooled inputs. Reentrant
            checkpointing keeps none, and `fully_shard` those on gates alone.
        take: is given each call, (name of the router, its tensors by name), after the model
            returned, instead of `Recorded`: for sums over more images than memory holds.

    Yields:
        name of the router (as in `named_modules`, the first of several) -> `Recorded`: `gates`
        [B, m, n], `scores` [B, m, n], `pooled` [B, m, C], `len()` of calls. A CrossStitch has gates
        alone.

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
    copy = hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None
    boxes = {name: _box_of(router) for name, router in routers.items()}
    settle = _Settle(boxes.values(), copy)
    recorded = {name: Recorded(settle) for name in routers}
    takers: dict[str, Callable[[Call], None]] = {
        name: partial(take, name) if take else recorded[name]._calls.append for name in routers
    }
    settle()
    try:
        for name, router in routers.items():
            boxes[name].takers.append(takers[name])
            boxes[name].detach &= detach  # an open context that keeps gradients needs them
            router._listener = boxes[name]
        with _after_each_call(model, settle):
            yield recorded
    finally:
        settle()
        for name, router in routers.items():
            box = boxes[name]
            box.takers.remove(takers[name])
            if not box.takers:
                router._listener, box.detach = None, True


def _box_of(router: Router) -> _Box:
    box = router.__dict__.get("_box")
    if box is None:
        router.__dict__["_box"] = box = _Box()
    return box  # type: ignore[no-any-return]
