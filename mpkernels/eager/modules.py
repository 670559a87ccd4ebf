"""Routers as modules: the parameters, and the definition as `forward`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpkernels.eager import functional


def as_paths(xs: Tensor | Sequence[Tensor], inputs: int) -> list[Tensor]:
    """The paths as a list; a single tensor counts as one path.

    Raises:
        ValueError: the number of paths is not `inputs`.
    """
    paths = [xs] if isinstance(xs, Tensor) else list(xs)
    if len(paths) != inputs:
        raise ValueError(f"xs must hold inputs = {inputs} paths, got {len(paths)}")
    return paths


def check_sizes(**sizes: int) -> None:
    """Raises ValueError unless every size is positive."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


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
        check_sizes(inputs=inputs, outputs=outputs, hidden=hidden)
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
    ) -> list[Tensor] | tuple[list[Tensor], Tensor]:
        """Routes the paths.

        Args:
            xs: m maps or vectors, as the router's description has them; a single tensor is one
                path.
            return_gates: also return the gates [B, m, n].

        Returns:
            ys, a list of n maps; or (ys, gates).

        Raises:
            ValueError: a number of paths, a shape or a device does not fit; the message names it.
            TypeError: a dtype does not fit.
        """
        ys, gates = self._route(as_paths(xs, self.inputs))
        return (ys, gates) if return_gates else ys

    def _route(self, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
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

    Parameters: w1 [m, K, C], b1 [m, K], w2 [m, n, K], b2 [m, n], initialised as `nn.Linear`.

    Raises:
        ValueError: a size is not positive.
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
    ) -> None:
        check_sizes(channels=channels)
        super().__init__(channels, inputs, outputs, hidden, bias, device, dtype)
        self.channels = channels
        self.reset_parameters()

    def _route(self, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        return functional.cross_connect(xs, self.w1, self.b1, self.w2, self.b2)

    def extra_repr(self) -> str:
        """Sizes, as the constructor takes them."""
        return (
            f"channels={self.channels}, inputs={self.inputs}, outputs={self.outputs}, "
            f"hidden={self.hidden}, bias={self.b1 is not None}"
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
        self.paths, self.inputs = paths, paths if inputs is None else inputs
        self.channels = channels
        check_sizes(paths=self.paths, inputs=self.inputs)
        shape = [self.inputs, self.paths]
        if channels is not None:
            check_sizes(channels=channels)
            shape.append(channels)
        self.alpha = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
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
    ) -> list[Tensor] | tuple[list[Tensor], Tensor]:
        """Mixes the paths.

        Args:
            xs: maps [B, C, *spatial] or vectors [B, C]; a single tensor is one path.
            return_gates: also return alpha as gates, [B, inputs, paths] or
                [B, inputs, paths, C] (an expanded view).

        Returns:
            ys, a list of maps; or (ys, gates).

        Raises:
            ValueError: a number of paths, a shape or a device does not fit; the message names it.
            TypeError: a dtype does not fit.
        """
        maps = as_paths(xs, self.inputs)
        gates = self.gates(maps[0].shape[0])
        ys = self._mix(maps, gates)
        return (ys, gates) if return_gates else ys

    def _mix(self, xs: list[Tensor], gates: Tensor) -> list[Tensor]:
        return functional.mix(xs, gates)

    def extra_repr(self) -> str:
        """Sizes, as the constructor takes them."""
        channels = "" if self.channels is None else f", channels={self.channels}"
        return f"paths={self.paths}, inputs={self.inputs}{channels}"
