"""Routers as modules: the parameters, and the definition as `forward`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from mpkernels.eager import functional
from mpkernels.eager.arguments import check_flags, check_maps, check_parameter_dtype, check_sizes
from mpkernels.eager.renamed import renamed_arguments, warn_of
from mpkernels.eager.router import Routed, Router, check_channels


def uniform(weight: Tensor, bias: Tensor | None, fan_in: int) -> None:
    """Draws both uniformly within 1/sqrt(fan_in), as `nn.Linear` and `nn.Conv2d` do."""
    bound = 1 / math.sqrt(fan_in)
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)


def glorot(weight: Tensor, bias: Tensor | None, fan_in: int) -> None:
    """Draws weights [.., out, in] within sqrt(6 / (in + out)); biases are 0: as Keras's Dense."""
    nn.init.uniform_(weight, -(bound := math.sqrt(6 / (fan_in + weight.shape[-2]))), bound)
    if bias is not None:
        nn.init.zeros_(bias)


def he(weight: Tensor, bias: Tensor | None, fan_in: int) -> None:
    """Draws weights normally, with variance 2 / fan-in; biases are 0."""
    nn.init.normal_(weight, 0, math.sqrt(2 / fan_in))
    if bias is not None:
        nn.init.zeros_(bias)


# How the weights and biases of gates start.
GateInit = Literal["linear", "glorot", "he"]
GATE_INITS: dict[GateInit, Callable[[Tensor, Tensor | None, int], None]] = {
    "linear": uniform,
    "glorot": glorot,
    "he": he,
}


class Gated(Router):
    """A router with a gate for each input path: w1 [m, K, C], b1 [m, K], w2 [m, n, K], b2 [m, n].

    A subclass adds its own parameters, if any.
    """

    b1: nn.Parameter | None
    b2: nn.Parameter | None
    kind: functional.Kind = "softmax"
    gate_init: GateInit = "linear"

    def __init__(
        self,
        channels: int,
        inputs: int,
        outputs: int,
        hidden: int,
        gate_bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        gate_init: GateInit,
    ) -> None:
        super().__init__()
        inputs, outputs, hidden = check_sizes(inputs=inputs, outputs=outputs, hidden=hidden)
        check_parameter_dtype(dtype)
        if gate_init not in GATE_INITS:
            raise ValueError(f"gate_init must be one of {', '.join(GATE_INITS)}, got {gate_init!r}")
        self.inputs, self.outputs, self.hidden = inputs, outputs, hidden
        self.gate_init = gate_init

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.w1 = parameter(inputs, hidden, channels)
        self.register_parameter("b1", parameter(inputs, hidden) if gate_bias else None)
        self.w2 = parameter(inputs, outputs, hidden)
        self.register_parameter("b2", parameter(inputs, outputs) if gate_bias else None)

    def reset_parameters(self) -> None:
        """Draws the gates' weights and biases, as `gate_init` says."""
        for weight, bias in ((self.w1, self.b1), (self.w2, self.b2)):
            GATE_INITS[self.gate_init](weight, bias, weight.shape[-1])

    def _start(self) -> str:
        return "" if self.gate_init == "linear" else f", gate_init={self.gate_init!r}"

    def _channels(self) -> int | None:
        return self.w1.shape[2]

    def _own_gates(self, xs: list[Tensor]) -> Tensor:
        return functional.gate(xs, self.w1, self.b1, self.w2, self.b2, kind=self.kind)


class CrossConnect(Gated):
    """Mixes m paths into n with gates computed from the paths themselves (Eq. 1 to 3 and 5).

    Y_j = sum_i g_ij X_i,  G_i = softmax_j(W2_i relu(W1_i mean(X_i) + b1_i) + b2_i)

    Paths are maps [B, C, *spatial] or vectors [B, C]; outputs are like them.

    Args:
        channels: C of every path.
        inputs: m, number of input paths. One is a one-to-many router.
        outputs: n, number of output paths.
        hidden: K, hidden units of each gate.
        gate_bias: whether the gates have biases.
        device, dtype: of the parameters.
        kind: of the gates: "softmax".
        gate_init: how the parameters start: "linear" (as `nn.Linear`), or with biases 0
            "glorot" (uniform, as Keras's Dense) or "he" (normal, variance 2 / fan-in).

    Parameters: w1 [m, K, C], b1 [m, K], w2 [m, n, K], b2 [m, n].

    Raises:
        TypeError: a size is no integer, a flag no bool, or parameters cannot have the dtype.
        ValueError: a size is not positive, or there is no such kind or start.
    """

    @renamed_arguments(gone="0.2", bias="gate_bias")
    def __init__(
        self,
        channels: int,
        inputs: int,
        outputs: int,
        hidden: int = 16,
        gate_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        kind: functional.Kind = "softmax",
        gate_init: GateInit = "linear",
    ) -> None:
        (channels,) = check_sizes(channels=channels)
        check_flags(gate_bias=gate_bias)
        functional.kind_of("CrossConnect", kind)
        super().__init__(channels, inputs, outputs, hidden, gate_bias, device, dtype, gate_init)
        self.channels, self.kind = channels, kind
        self.reset_parameters()

    def _check_paths(self, xs: list[Tensor]) -> None:
        check_maps(xs)
        check_channels(xs, self.channels)

    def _route(self, xs: list[Tensor]) -> Routed:
        self._check_paths(xs)
        own = self.w1, self.b1, self.w2, self.b2
        return *functional.cross_connect(xs, *own, kind=self.kind), None

    def _route_by(self, xs: list[Tensor], gates: Tensor) -> tuple[Tensor, ...]:
        return functional.mix(xs, gates)

    def extra_repr(self) -> str:
        """Sizes, as the constructor takes them."""
        kind = "" if self.kind == "softmax" else f", kind={self.kind!r}"
        kind += self._start()
        return (
            f"channels={self.channels}, inputs={self.inputs}, outputs={self.outputs}, "
            f"hidden={self.hidden}, gate_bias={self.b1 is not None}{kind}"
        )


class CrossStitch(Router):
    """Mixes paths with learned weights that do not depend on the input: Y_j = sum_i alpha_ij X_i.

    The static baseline of the paper's comparison (section 1). With `channels`, every channel c
    has weights of its own, alpha_ijc, as in the original method (Misra et al., arXiv 1604.03539).

    Args:
        outputs: n, number of output paths; by position it comes before `inputs`.
        inputs: m, number of input paths; n of them where it is not given.
        channels: C of every path for one weight a channel; None for one weight a map.
        device, dtype: of the parameter.

    Parameter: alpha [m, n] or [m, n, C], the identity softened (0.9 kept, the rest shared) where
    both numbers agree; otherwise each output starts as the mean of the inputs.

    Raises:
        TypeError: a size is no integer, a flag no bool, or parameters cannot have the dtype.
        ValueError: a size is not positive.
    """

    @renamed_arguments(gone="0.2", paths="outputs")
    def __init__(
        self,
        outputs: int,
        inputs: int | None = None,
        channels: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        (self.outputs,) = check_sizes(outputs=outputs)
        self.inputs = self.outputs if inputs is None else check_sizes(inputs=inputs)[0]
        self.channels = None if channels is None else check_sizes(channels=channels)[0]
        check_parameter_dtype(dtype)
        sizes = [self.inputs, self.outputs] + ([] if self.channels is None else [self.channels])
        self.alpha = nn.Parameter(torch.empty(sizes, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets alpha to the softened identity, or to the mean of the inputs."""
        with torch.no_grad():
            if self.inputs != self.outputs or self.outputs == 1:
                self.alpha.fill_(1 / self.inputs)
            else:
                self.alpha.fill_(0.1 / (self.outputs - 1)).diagonal().fill_(0.9)

    def gates(self, batch: int) -> Tensor:
        """The parameter alpha as gates [B, m, n] or [B, m, n, C]: a view, expanded over B."""
        return self.alpha.expand(batch, *self.alpha.shape)

    @property
    def paths(self) -> int:
        """The old name of `outputs`."""
        warn_of("CrossStitch.paths", "outputs", gone="0.2")
        return self.outputs

    def _gate_sizes(self) -> tuple[int, ...]:
        return tuple(self.alpha.shape)

    def _channels(self) -> int | None:
        return self.channels

    def _check_paths(self, xs: list[Tensor]) -> None:
        check_maps(xs)
        if self.channels is not None:
            check_channels(xs, self.channels)

    def _own_gates(self, xs: list[Tensor]) -> Tensor:
        return self.gates(xs[0].shape[0])

    def _route(self, xs: list[Tensor]) -> Routed:
        self._check_paths(xs)
        gates = self._own_gates(xs)
        return self._route_by(xs, gates), gates, None

    def _route_by(self, xs: list[Tensor], gates: Tensor) -> tuple[Tensor, ...]:
        return functional.mix(xs, gates)

    def extra_repr(self) -> str:
        """Sizes, as the constructor takes them."""
        channels = "" if self.channels is None else f", channels={self.channels}"
        return f"inputs={self.inputs}, outputs={self.outputs}{channels}"
