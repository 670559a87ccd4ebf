"""What all routers share: a call, the gates that they are given, and who listens to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor, nn

from mpkernels.eager.arguments import (
    as_list,
    check_floating,
    check_maps,
    hint_of_channels,
    hint_of_stack,
    is_dense,
    shape,
)
from mpkernels.eager.functional import follow_autocast
from mpkernels.eager.tracing import record, tracer_of

Paths = Tensor | Sequence[Tensor]
Maps = tuple[Tensor, ...]
Rule = Callable[["Router", Callable[[], Tensor]], Tensor]
Routed = tuple[Maps, Tensor, Tensor | None]


def as_paths(xs: Paths, router: Router) -> list[Tensor]:
    """The paths as a list; a single tensor counts as one path.

    Raises:
        TypeError: xs is neither a tensor nor a list of such.
        ValueError: the number of paths is not the router's `inputs`.
    """
    paths = list(xs) if type(xs) in (list, tuple) else as_list("xs", xs)
    if len(paths) != router.inputs:
        hint = hint_of_stack(paths, router.inputs, router._channels())
        raise ValueError(f"xs must hold inputs = {router.inputs} paths, got {len(paths)}{hint}")
    return paths


def check_channels(xs: Sequence[Tensor], channels: int) -> None:
    """Raises unless the maps have so many channels."""
    if xs[0].shape[1] != channels:
        hint = hint_of_channels(xs[0], channels) or hint_of_stack(xs, 1, channels)
        raise ValueError(
            f"xs[0] must have channels = {channels}, "
            f"got {int(xs[0].shape[1])} in {shape(xs[0].shape)}{hint}"
        )


# What `mpkernels.route` and `mpkernels.record` put into a router.
OPEN = ("_rules", "_listener", "_box")


class Router(nn.Module):
    """A router: m paths become n.

    A subclass has `inputs` and `outputs`, m and n, and the methods that raise here.
    """

    inputs: int
    outputs: int
    # Of `mpkernels.route`, one for each open context; the last is in force. None goes the router's
    # own way, another maps (router, what computes its own gates) to the gates that it uses.
    _rules: tuple[Rule | None, ...] = ()
    # Of `mpkernels.record` while it is open, given (router, paths, gates, pooled inputs if known).
    _listener: Callable[..., None] | None = None

    @overload
    def forward(
        self, xs: Paths, return_gates: Literal[False] = False, gates: Tensor | None = None
    ) -> Maps: ...

    @overload
    def forward(
        self, xs: Paths, return_gates: Literal[True], gates: Tensor | None = None
    ) -> tuple[Maps, Tensor]: ...

    @overload
    def forward(
        self, xs: Paths, return_gates: bool, gates: Tensor | None = None
    ) -> Maps | tuple[Maps, Tensor]: ...

    def forward(
        self, xs: Paths, return_gates: bool = False, gates: Tensor | None = None
    ) -> Maps | tuple[Maps, Tensor]:
        """Routes the paths.

        Args:
            xs: m maps or vectors, as the router's description has them; a single tensor is one
                path.
            return_gates: also return the gates [B, m, n].
            gates: [m, n] or [B, m, n], instead of the router's own; differentiable.

        Returns:
            ys, a tuple of n maps; or (ys, gates).

        Raises:
            ValueError: a number of paths, a shape or a device does not fit; the message names it.
            TypeError: a dtype does not fit.
        """
        if (tracer := tracer_of(xs)) is not None:
            return record(tracer, self, self.outputs, xs, return_gates, gates)  # type: ignore[no-any-return]
        paths = as_paths(xs, self)
        if gates is None and not self._rules and self._listener is None:
            ys, used, _ = self._route(paths)
        else:
            ys, used = self._observed(paths, gates)
        return (ys, used) if return_gates else ys

    if TYPE_CHECKING:  # as it runs it is nn.Module's own, whose types say nothing

        @overload
        def __call__(
            self, xs: Paths, return_gates: Literal[False] = False, gates: Tensor | None = None
        ) -> Maps: ...

        @overload
        def __call__(
            self, xs: Paths, return_gates: Literal[True], gates: Tensor | None = None
        ) -> tuple[Maps, Tensor]: ...

        @overload
        def __call__(
            self, xs: Paths, return_gates: bool, gates: Tensor | None = None
        ) -> Maps | tuple[Maps, Tensor]: ...

        def __call__(self, *arguments: Any, **named: Any) -> Any:
            """Routes the paths, as `forward` does, and runs hooks."""

    def _observed(self, paths: list[Tensor], gates: Tensor | None) -> tuple[Maps, Tensor]:
        """The maps and the gates, which the caller, `mpkernels.route` or the router chooses."""
        check_maps(follow_autocast(paths))
        self._check_paths(paths)
        pooled, rule = None, self._rules[-1] if self._rules else None
        if gates is None and rule is not None:
            gates = rule(self, lambda: self._own_gates(paths))
        if gates is None:
            ys, gates, pooled = self._route(paths)
        else:
            gates = self._checked_gates(gates, paths)
            ys = self._route_by(paths, gates)
        if self._listener is not None:
            self._listener(self, paths, gates, pooled)
        return ys, gates

    def _checked_gates(self, gates: Tensor, paths: list[Tensor]) -> Tensor:
        """Given gates, for each image; raises unless they fit."""
        if not is_dense(gates):
            raise TypeError(f"gates must be a tensor, got {type(gates).__name__}")
        check_floating("gates", gates)
        sizes, batch = self._gate_sizes(), paths[0].shape[0]
        if tuple(gates.shape) not in (sizes, (batch, *sizes)):
            raise ValueError(
                f"gates must be {shape(sizes)} or {shape((batch, *sizes))}, "
                f"got {shape(gates.shape)}"
            )
        if gates.device != paths[0].device:
            raise ValueError(f"gates must be on {paths[0].device} as xs, got {gates.device}")
        return gates.expand(batch, *sizes)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and files hold: nothing of the contexts that are open."""
        return {k: v for k, v in self.__dict__.items() if k not in OPEN}

    def _gate_sizes(self) -> tuple[int, ...]:
        """Those of one image's gates."""
        return self.inputs, self.outputs

    def _channels(self) -> int | None:
        """C of the paths, None if any."""
        raise NotImplementedError

    def _check_paths(self, xs: list[Tensor]) -> None:
        """Raises, in the router's terms, unless it takes these paths."""
        raise NotImplementedError

    def _own_gates(self, xs: list[Tensor]) -> Tensor:
        raise NotImplementedError

    def _route(self, xs: list[Tensor]) -> Routed:
        """New maps, gates, and the pooled inputs [B, m, C] if they are at hand."""
        raise NotImplementedError

    def _route_by(self, xs: list[Tensor], gates: Tensor) -> Maps:
        """New maps, by these gates."""
        raise NotImplementedError
