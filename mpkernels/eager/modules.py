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


class CrossConnect(nn.Module):
    """Mixes m paths into n with gates computed from the paths themselves (Eq. 1 to 3 and 5).

    Y_j = sum_i g_ij X_i,  G_i = softmax_j(W2_i relu(W1_i mean(X_i) + b1_i) + b2_i)

    Args:
        channels: C of every path.
        inputs: m, number of input paths. One is a one-to-many router.
        outputs: n, number of output paths.
        hidden: K, hidden units of each gate.
        bias: whether the gates have biases.

    Parameters: w1 [m, K, C], b1 [m, K], w2 [m, n, K], b2 [m, n], initialised as `nn.Linear`.

    Raises:
        ValueError: a size is not positive.
    """

    b1: nn.Parameter | None
    b2: nn.Parameter | None

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
        super().__init__()
        sizes = {"channels": channels, "inputs": inputs, "outputs": outputs, "hidden": hidden}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.channels, self.inputs, self.outputs, self.hidden = channels, inputs, outputs, hidden

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.w1 = parameter(inputs, hidden, channels)
        self.register_parameter("b1", parameter(inputs, hidden) if bias else None)
        self.w2 = parameter(inputs, outputs, hidden)
        self.register_parameter("b2", parameter(inputs, outputs) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights and biases uniformly within 1/sqrt(fan-in), as `nn.Linear` does."""
        for weight, bias in ((self.w1, self.b1), (self.w2, self.b2)):
            bound = 1 / math.sqrt(weight.shape[-1])
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)

    def forward(
        self, xs: Tensor | Sequence[Tensor], return_gates: bool = False
    ) -> list[Tensor] | tuple[list[Tensor], Tensor]:
        """Mixes the paths.

        Args:
            xs: m maps [B, C, *spatial] or vectors [B, C]; a single tensor is one path.
            return_gates: also return the gates [B, m, n].

        Returns:
            ys, a list of n maps; or (ys, gates).
        """
        ys, gates = self._cross_connect(as_paths(xs, self.inputs))
        return (ys, gates) if return_gates else ys

    def _cross_connect(self, xs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        return functional.cross_connect(xs, self.w1, self.b1, self.w2, self.b2)

    def extra_repr(self) -> str:
        """Sizes, as the constructor takes them."""
        return (
            f"channels={self.channels}, inputs={self.inputs}, outputs={self.outputs}, "
            f"hidden={self.hidden}, bias={self.b1 is not None}"
        )


class CrossStitch(nn.Module):
    """Mixes paths with learned weights that do not depend on the input: Y_j = sum_i alpha_ij X_i.

    The static baseline of the paper's comparison.

    Args:
        paths: number of output paths, and of input paths where `inputs` is not given.
        inputs: number of input paths if it differs from `paths`.

    Parameter: alpha [inputs, paths], the identity softened (0.9 kept, the rest shared) where
    both numbers agree; otherwise each output starts as the mean of the inputs.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        paths: int,
        inputs: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.paths, self.inputs = paths, paths if inputs is None else inputs
        for name, size in {"paths": self.paths, "inputs": self.inputs}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.alpha = nn.Parameter(torch.empty(self.inputs, self.paths, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets alpha to the softened identity, or to the mean of the inputs."""
        with torch.no_grad():
            if self.inputs != self.paths or self.paths == 1:
                self.alpha.fill_(1 / self.inputs)
            else:
                self.alpha.fill_(0.1 / (self.paths - 1)).fill_diagonal_(0.9)

    def forward(
        self, xs: Tensor | Sequence[Tensor], return_gates: bool = False
    ) -> list[Tensor] | tuple[list[Tensor], Tensor]:
        """Mixes the paths.

        Args:
            xs: maps [B, C, *spatial] or vectors [B, C]; a single tensor is one path.
            return_gates: also return alpha as gates [B, inputs, paths] (an expanded view).

        Returns:
            ys, a list of maps; or (ys, gates).
        """
        maps = as_paths(xs, self.inputs)
        gates = self.alpha.expand(maps[0].shape[0], -1, -1)
        ys = self._mix(maps, gates)
        return (ys, gates) if return_gates else ys

    def _mix(self, xs: list[Tensor], gates: Tensor) -> list[Tensor]:
        return functional.mix(xs, gates)

    def extra_repr(self) -> str:
        """Sizes, as the constructor takes them."""
        return f"paths={self.paths}, inputs={self.inputs}"
