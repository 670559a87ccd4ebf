"""Cross-prediction routers: every path predicts every output, and gates weight the predictions.

One convolution (or dense layer) per path computes its predictions for all n outputs, stacked in
channels. On CPU this beat both m*n small convolutions and one grouped convolution over the joined
paths, in both layouts, forward and backward.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from mpkernels.eager import functional
from mpkernels.eager.arguments import (
    check_dense,
    check_dtype,
    check_flags,
    check_floating,
    check_sizes,
    hint_of_channels,
    hint_of_stack,
    shape,
)
from mpkernels.eager.modules import Gated, GateInit, uniform
from mpkernels.eager.norms import why_watched
from mpkernels.eager.router import Routed

Sizes = int | tuple[int, int]
Padding = Sizes | Literal["same", "valid"]


def _pair(name: str, value: Sizes, least: int) -> tuple[int, int]:
    """Height and width of an argument of a convolution."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    message = f"{name} must be one or two integers of at least {least}, got {value!r}"
    if len(pair) != 2 or any(isinstance(size, bool) for size in pair):
        raise ValueError(message)
    try:
        height, width = map(operator.index, pair)  # NumPy's integers too
    except TypeError as error:
        raise ValueError(message) from error
    if min(height, width) < least:
        raise ValueError(message)
    return height, width


class CrossPredict(Gated):
    """What the cross-prediction routers share; `_predict` computes one path's predictions U_i.

    weight is [m, n*C', C, *kernel] and bias [m, n*C'], ordered path, output, channel.
    """

    bias: nn.Parameter | None
    notation: str
    size: str  # the constructor's name of C

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...],
        inputs: int,
        outputs: int,
        hidden: int,
        bias: bool,
        gate_bias: bool,
        relu: bool,
        norm: Callable[..., nn.Module] | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        gate_init: GateInit,
    ) -> None:
        check_flags(bias=bias, gate_bias=gate_bias, relu=relu)
        super().__init__(in_channels, inputs, outputs, hidden, gate_bias, device, dtype, gate_init)
        self.relu = relu
        inputs, outputs = self.inputs, self.outputs
        rows = outputs * out_channels
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(inputs, rows, in_channels, *kernel, **options))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(inputs, rows, **options)) if bias else None
        )
        self.norms = nn.ModuleList()
        if norm is not None:
            self.norms.extend(norm(out_channels, **options) for _ in range(outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws gates as `gate_init` says, the rest within 1/sqrt(fan-in); resets batch norms."""
        super().reset_parameters()
        uniform(self.weight, self.bias, math.prod(self.weight.shape[2:]))
        for norm in self.norms:
            norm.reset_parameters()  # type: ignore[operator]

    def _predict(self, x: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def _check_paths(self, xs: list[Tensor]) -> None:
        """Raises unless every path is a tensor that the weights fit."""
        channels = self.weight.shape[2]
        for i, x in enumerate(xs):
            check_dense(f"xs[{i}]", x)
            check_floating(f"xs[{i}]", x)
            if x.dim() != self.weight.dim() - 1 or x.shape[1] != channels:
                hint = hint_of_channels(x, channels) or hint_of_stack(xs, 1, channels)
                raise ValueError(
                    f"xs[{i}] must be {self.notation} with C = {self.size} = {channels}, "
                    f"got {shape(x.shape)}{hint}"
                )

    def _predictions(self, xs: list[Tensor]) -> list[Tensor]:
        """U_i of each path, in autocast's dtype as the paths, without biases."""
        check_dtype(xs[0], self.weight, xs[0].device.type)
        return [self._predict(x, w) for x, w in zip(xs, self.weight.unbind())]

    def _normalise(self, ys: Sequence[Tensor]) -> tuple[Tensor, ...]:
        normalised = tuple(norm(y) for norm, y in zip(self.norms, ys))
        if not self.relu:
            return normalised
        # In place, unless somebody may keep what the norm returned, or differentiate through it.
        watched = [why_watched(norm) is not None for norm in self.norms]
        return tuple(y.relu() if seen else y.relu_() for y, seen in zip(normalised, watched))

    def _weighted(self, us: list[Tensor], gates: Tensor) -> tuple[Tensor, ...]:
        if not self.norms:
            return functional.combine(us, gates, self.bias, self.relu)
        return self._normalise(functional.combine(us, gates, self.bias, relu=False))

    def _route(self, xs: list[Tensor]) -> Routed:
        self._check_paths(xs)
        xs = functional.follow_autocast(xs)
        gates = self._own_gates(xs)
        return self._weighted(self._predictions(xs), gates), gates, None

    def _route_by(self, xs: list[Tensor], gates: Tensor) -> tuple[Tensor, ...]:
        return self._weighted(self._predictions(functional.follow_autocast(xs)), gates)


class CrossPredictConv2d(CrossPredict):
    """Every path predicts every output by a convolution; gates weight the predictions (Eq. 1 to 4).

    Y_j = relu(sum_i g_ij (W_ij * X_i + b_ij)), with batch norm Y_j = relu(BN_j(sum_i ...));
    G_i = softmax_j(W2_i relu(W1_i mean(X_i) + b1_i) + b2_i), the gates of X_i, not of U_i.

    m maps [B, C, H, W] become n maps [B, C', H', W'] in the dtype of the weights, or under
    autocast in its dtype; gates are float32 (float64 for float64 maps). The convolutions are
    PyTorch's, one a path with n*C' channels. The bias stays under batch norm: its gate differs
    between samples, so the mean does not cancel it.

    Args:
        in_channels: C of every input path.
        out_channels: C' of every output path.
        kernel_size: height and width, or one number for both.
        inputs: m, number of input paths. One is a one-to-many router.
        outputs: n, number of output paths.
        stride, dilation: as in `nn.Conv2d`.
        padding: as in `nn.Conv2d`: one or two numbers of zeros, "same" or "valid".
        hidden: K, hidden units of each gate.
        bias: whether the predictions have biases.
        batch_norm: one `nn.BatchNorm2d` for each output, in `norms`. Fused routers in eval mode
            fold it into the sum.
        relu: whether the last step is a ReLU.
        gate_bias: whether the gates have biases.
        device, dtype: of the parameters.
        gate_init: how the gates start, as in `CrossConnect`.

    Parameters: weight [m, n*C', C, kh, kw], bias [m, n*C'], ordered path, output, channel,
    initialised as `nn.Conv2d`; w1 [m, K, C], b1 [m, K], w2 [m, n, K], b2 [m, n].

    Raises:
        TypeError: a size is no integer, a flag no bool, or parameters cannot have the dtype.
        ValueError: a size is not positive, or an argument of the convolution does not fit.

    Example:
        >>> router = CrossPredictConv2d(3, 8, 3, inputs=2, outputs=3, padding=1)
        >>> ys, gates = router([torch.randn(4, 3, 6, 6) for _ in range(2)], return_gates=True)
        >>> len(ys), tuple(ys[0].shape), tuple(gates.shape)
        (3, (4, 8, 6, 6), (4, 2, 3))
    """

    notation, size = "[B, C, H, W]", "in_channels"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        inputs: int,
        outputs: int,
        stride: Sizes = 1,
        padding: Padding = 0,
        hidden: int = 16,
        bias: bool = True,
        batch_norm: bool = False,
        relu: bool = True,
        dilation: Sizes = 1,
        gate_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        gate_init: GateInit = "linear",
    ) -> None:
        in_channels, out_channels = check_sizes(in_channels=in_channels, out_channels=out_channels)
        check_flags(batch_norm=batch_norm)
        kernel = _pair("kernel_size", kernel_size, 1)
        strides = _pair("stride", stride, 1)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f'padding must be "same", "valid" or numbers, got {padding!r}')
            if padding == "same" and strides != (1, 1):
                raise ValueError(f'stride must be 1 where padding is "same", got {stride!r}')
        super().__init__(
            in_channels, out_channels, kernel, inputs, outputs, hidden, bias, gate_bias, relu,
            nn.BatchNorm2d if batch_norm else None, device, dtype, gate_init,
        )  # fmt: skip
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel
        self.stride = strides
        self.padding = padding if isinstance(padding, str) else _pair("padding", padding, 0)
        self.dilation = _pair("dilation", dilation, 1)

    def _predict(self, x: Tensor, weight: Tensor) -> Tensor:
        return conv2d(x, weight, None, self.stride, self.padding, self.dilation)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        # A weight of five dimensions is 4-D filters, one set a path: `to(memory_format=...)` must
        # see it so, since channels_last is a format of 4-D tensors.
        def by_filter(t: Tensor) -> Tensor:
            return fn(t.flatten(0, 1)).unflatten(0, t.shape[:2]) if t.dim() == 5 else fn(t)

        super()._apply(by_filter, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """Sizes, as the constructor takes them."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"inputs={self.inputs}, outputs={self.outputs}, stride={self.stride}, "
            f"padding={self.padding!r}, hidden={self.hidden}, bias={self.bias is not None}, "
            f"relu={self.relu}, dilation={self.dilation}, gate_bias={self.b1 is not None}"
            f"{self._start()}"
        )


class CrossPredictLinear(CrossPredict):
    """Every path predicts every output by a dense layer; gates weight the predictions (Eq. 2 to 4).

    Y_j = relu(sum_i g_ij (W_ij X_i + b_ij)), with batch norm Y_j = relu(BN_j(sum_i ...));
    G_i = softmax_j(W2_i relu(W1_i X_i + b1_i) + b2_i).

    m vectors [B, C] become n vectors [B, C'] in the dtype of the weights, or under autocast in
    its dtype; gates are float32 (float64 for float64 vectors).

    Args:
        in_features: C of every input path.
        out_features: C' of every output path.
        inputs: m, number of input paths. One is a one-to-many router.
        outputs: n, number of output paths.
        hidden: K, hidden units of each gate.
        bias: whether the predictions have biases.
        batch_norm: one `nn.BatchNorm1d` for each output, in `norms`. Fused routers in eval mode
            fold it into the sum.
        relu: whether the last step is a ReLU.
        gate_bias: whether the gates have biases.
        device, dtype: of the parameters.
        gate_init: how the gates start, as in `CrossConnect`.

    Parameters: weight [m, n*C', C], bias [m, n*C'], ordered path, output, channel, initialised as
    `nn.Linear`; w1 [m, K, C], b1 [m, K], w2 [m, n, K], b2 [m, n].

    Raises:
        TypeError: a size is no integer, a flag no bool, or parameters cannot have the dtype.
        ValueError: a size is not positive.

    Example:
        >>> router = CrossPredictLinear(32, 10, inputs=2, outputs=3)
        >>> [tuple(y.shape) for y in router([torch.randn(4, 32) for _ in range(2)])]
        [(4, 10), (4, 10), (4, 10)]
    """

    notation, size = "[B, C]", "in_features"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        inputs: int,
        outputs: int,
        hidden: int = 16,
        bias: bool = True,
        batch_norm: bool = False,
        relu: bool = True,
        gate_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        gate_init: GateInit = "linear",
    ) -> None:
        in_features, out_features = check_sizes(in_features=in_features, out_features=out_features)
        check_flags(batch_norm=batch_norm)
        super().__init__(
            in_features, out_features, (), inputs, outputs, hidden, bias, gate_bias, relu,
            nn.BatchNorm1d if batch_norm else None, device, dtype, gate_init,
        )  # fmt: skip
        self.in_features, self.out_features = in_features, out_features

    def _predict(self, x: Tensor, weight: Tensor) -> Tensor:
        return linear(x, weight)

    def extra_repr(self) -> str:
        """Sizes, as the constructor takes them."""
        return (
            f"{self.in_features}, {self.out_features}, inputs={self.inputs}, "
            f"outputs={self.outputs}, hidden={self.hidden}, bias={self.bias is not None}, "
            f"relu={self.relu}, gate_bias={self.b1 is not None}{self._start()}"
        )
