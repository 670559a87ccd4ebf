"""Routers as modules: the parameters, and the definition as `forward`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpkernels.eager import functional
from mpkernels.eager.arguments import (
    as_list,
    check_flags,
    check_maps,
    check_parameter_dtype,
    check_sizes,
    hint_of_channels,
    hint_of_stack,
    shape,
)
from mpkernels.eager.tracing import record, tracer_of


def as_paths(xs: Tensor | Sequence[Tensor], router: Gated | CrossStitch) -> list[Tensor]:
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


def uniform(weight: Tensor, bias: Tensor | None, fan_in: int) -> None:
    """Draws both uniformly within 1/sqrt(fan_in), as `nn.Linear` and `nn.Conv2d` do."""
    bound = 1 / math.sqrt(fan_in)
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)


class Gated(nn.Module):
    """A router with a gate for each input path: w1 [m, K, C], b1 [m, K], w2 [m, n, K], b2 [m, n].

    A subclass adds its own parameters, if any, and `_route`.
    """

    b1: nn.Parameter | None
    b2: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        inputs: int,
        outputs: int,
        hidden: int,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        inputs, outputs, hidden = check_sizes(inputs=inputs, outputs=outputs, hidden=hidden)
        check_parameter_dtype(dtype)
        self.inputs, self.outputs, self.hidden = inputs, outputs, hidden

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.w1 = parameter(inputs, hidden, channels)
        self.register_parameter("b1", parameter(inputs, hidden) if bias else None)
        self.w2 = parameter(inputs, outputs, hidden)
        self.register_parameter("b2", parameter(inputs, outputs) if bias else None)

    def reset_parameters(self) -> None:
        """Draws the gates' weights and biases as `nn.Linear` does: within 1/sqrt(fan-in)."""
        for weight, bias in ((self.w1, self.b1), (self.w2, self.b2)):
            uniform(weight, bias, weight.shape[-1])

    def forward(
        self, xs: Tensor | Sequence[Tensor], return_gates: bool = False
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, ...], Tensor]:
        """Routes the paths.

        Args:
            xs: m maps or vectors, as the router's description has them; a single tensor is one
                path.
            return_gates: also return the gates [B, m, n].

        Returns:
            ys, a tuple of n maps; or (ys, gates).

        Raises:
            ValueError: a number of paths, a shape or a device does not fit; the message names it.
            TypeError: a dtype does not fit.
        """
        if (tracer := tracer_of(xs)) is not None:
            return record(tracer, self, self.outputs, xs, return_gates)  # type: ignore[no-any-return]
        ys, gates = self._route(as_paths(xs, self))
        return (ys, gates) if return_gates else ys

    def _channels(self) -> int | None:
        """C of the paths, None if any."""
        return self.w1.shape[2]

    def _check_paths(self, xs: list[Tensor]) -> None:
        """Raises, in the router's terms, unless it takes these paths."""
        raise NotImplementedError

    def _route(self, xs: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        raise NotImplementedError


class CrossConnect(Gated):
    """Mixes m paths into n with gates computed from the paths themselves (Eq. 1 to 3 and 5).

    Y_j = sum_i g_ij X_i,  G_i = softmax_j(W2_i relu(W1_i mean(X_i) + b1_i) + b2_i)

    Paths are maps [B, C, *spatial] or vectors [B, C]; outputs are like them.

    Args:
        channels: C of every path.
        inputs: m, number of input paths. One is a one-to-many router.
        outputs: n, number of output paths.
        hidden: K, hidden units of each gate.
        bias: whether the gates have biases.
        device, dtype: of the parameters.
        kind: of the gates: "softmax".

    Parameters: w1 [m, K, C], b1 [m, K], w2 [m, n, K], b2 [m, n], initialised as `nn.Linear`.

    Raises:
        TypeError: a size is no integer, a flag no bool, or parameters cannot have the dtype.
        ValueError: a size is not positive, or no such kind.
    """

    def __init__(
        self,
        channels: int,
        inputs: int,
        outputs: int,
        hidden: int = 16,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        kind: str = "softmax",
    ) -> None:
        (channels,) = check_sizes(channels=channels)
        check_flags(bias=bias)
        functional.kind_of("CrossConnect", kind)
        super().__init__(channels, inputs, outputs, hidden, bias, device, dtype)
        self.channels, self.kind = channels, kind
        self.reset_parameters()

    def _check_paths(self, xs: list[Tensor]) -> None:
        check_maps(xs)
        check_channels(xs, self.channels)

    def _route(self, xs: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        self._check_paths(xs)
        return functional.cross_connect(xs, self.w1, self.b1, self.w2, self.b2, kind=self.kind)

    def extra_repr(self) -> str:
        """Sizes, as the constructor takes them."""
        kind = "" if self.kind == "softmax" else f", kind={self.kind!r}"
        return (
            f"channels={self.channels}, inputs={self.inputs}, outputs={self.outputs}, "
            f"hidden={self.hidden}, bias={self.b1 is not None}{kind}"
        )


class CrossStitch(nn.Module):
    """Mixes paths with learned weights that do not depend on the input: Y_j = sum_i alpha_ij X_i.

    The static baseline of the paper's comparison (section 1). With `channels`, every channel c
    has weights of its own, alpha_ijc, as in the original method (Misra et al., arXiv 1604.03539).

    Args:
        paths: number of output paths, and of input paths where `inputs` is not given.
        inputs: number of input paths if it differs from `paths`.
        channels: C of every path for one weight a channel; None for one weight a map.
        device, dtype: of the parameter.

    Parameter: alpha [inputs, paths] or [inputs, paths, C], the identity softened (0.9 kept, the
    rest shared) where both numbers agree; otherwise each output starts as the mean of the inputs.

    Raises:
        TypeError: a size is no integer, a flag no bool, or parameters cannot have the dtype.
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        paths: int,
        inputs: int | None = None,
        channels: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        (self.paths,) = check_sizes(paths=paths)
        self.inputs = self.paths if inputs is None else check_sizes(inputs=inputs)[0]
        self.channels = None if channels is None else check_sizes(channels=channels)[0]
        check_parameter_dtype(dtype)
        sizes = [self.inputs, self.paths] + ([] if self.channels is None else [self.channels])
        self.alpha = nn.Parameter(torch.empty(sizes, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets alpha to the softened identity, or to the mean of the inputs."""
        with torch.no_grad():
            if self.inputs != self.paths or self.paths == 1:
                self.alpha.fill_(1 / self.inputs)
            else:
                self.alpha.fill_(0.1 / (self.paths - 1)).diagonal().fill_(0.9)

    def gates(self, batch: int) -> Tensor:
        """The parameter alpha as gates [B, inputs, paths(, C)]: a view, expanded over B."""
        return self.alpha.expand(batch, *self.alpha.shape)

    def forward(
        self, xs: Tensor | Sequence[Tensor], return_gates: bool = False
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, ...], Tensor]:
        """Mixes the paths.

        Args:
            xs: maps [B, C, *spatial] or vectors [B, C]; a single tensor is one path.
            return_gates: also return alpha as gates, [B, inputs, paths] or
                [B, inputs, paths, C] (an expanded view).

        Returns:
            ys, a tuple of maps; or (ys, gates).

        Raises:
            ValueError: a number of paths, a shape or a device does not fit; the message names it.
            TypeError: a dtype does not fit.
        """
        if (tracer := tracer_of(xs)) is not None:
            return record(tracer, self, self.paths, xs, return_gates)  # type: ignore[no-any-return]
        ys, gates = self._route(as_paths(xs, self))
        return (ys, gates) if return_gates else ys

    def _channels(self) -> int | None:
        return self.channels

    def _check_paths(self, xs: list[Tensor]) -> None:
        check_maps(xs)
        if self.channels is not None:
            check_channels(xs, self.channels)

    def _route(self, xs: list[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        self._check_paths(xs)
        gates = self.gates(xs[0].shape[0])
        return functional.mix(xs, gates), gates

    def extra_repr(self) -> str:
        """Sizes, as the constructor takes them."""
        channels = "" if self.channels is None else f", channels={self.channels}"
        return f"paths={self.paths}, inputs={self.inputs}{channels}"
