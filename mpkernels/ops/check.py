"""Checks of users' arguments, before any kernel runs.

Messages name the argument, what was wanted and what was found, in the notation of the
documentation: B batch, C channels, m input paths, n output paths, K hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mpkernels.eager.cross_prediction import check_dtype
from mpkernels.ops.layout import is_floating


def _shape(sizes: Sequence[int]) -> str:
    return "[" + ", ".join(str(int(size)) for size in sizes) + "]"


def check_tensors(function: str, xs: Sequence[Tensor], name: str = "xs") -> None:
    """Raises unless xs, the argument `name`, are m >= 1 tensors."""
    if len(xs) == 0:
        raise ValueError(f"{function}: {name} must hold at least one path, got none")
    for i, x in enumerate(xs):
        if not isinstance(x, Tensor):
            raise TypeError(f"{function}: {name}[{i}] must be a tensor, got {type(x).__name__}")


def check_paths(function: str, xs: Sequence[Tensor], name: str = "xs") -> None:
    """Raises unless the tensors xs are floating-point maps of one shape, dtype and device."""
    first = xs[0]
    for i, x in enumerate(xs):
        here = f"{function}: {name}[{i}]"
        if not is_floating(x.dtype):
            raise TypeError(f"{here} must be float32, float64, bfloat16 or float16, got {x.dtype}")
        if x.dim() < 2:
            raise ValueError(f"{here} must be [B, C, *spatial] or [B, C], got {_shape(x.shape)}")
        if x.shape != first.shape:
            raise ValueError(
                f"{here} must be {_shape(first.shape)} as {name}[0], got {_shape(x.shape)}"
            )
        if x.dtype != first.dtype:
            raise TypeError(f"{here} must be {first.dtype} as {name}[0], got {x.dtype}")
        if x.device != first.device:
            raise ValueError(f"{here} must be on {first.device} as {name}[0], got {x.device}")


def _check_tensor(
    function: str,
    name: str,
    value: Tensor,
    notation: str,
    wanted: Sequence[int],
    like: Tensor,
    paths: str = "xs",
) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {name} must be a tensor, got {type(value).__name__}")
    if tuple(value.shape) != tuple(wanted):
        raise ValueError(
            f"{function}: {name} must be {notation} = {_shape(wanted)}, got {_shape(value.shape)}"
        )
    if not is_floating(value.dtype):
        raise TypeError(f"{function}: {name} must have a floating-point dtype, got {value.dtype}")
    if value.device != like.device:
        raise ValueError(
            f"{function}: {name} must be on {like.device} as {paths}, got {value.device}"
        )


def check_gate(
    function: str,
    xs: Sequence[Tensor],
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
) -> None:
    """Raises unless xs are paths and the parameters are gates for them."""
    check_paths(function, xs)
    for name, weight in (("w1", w1), ("w2", w2)):
        if not isinstance(weight, Tensor):
            raise TypeError(f"{function}: {name} must be a tensor, got {type(weight).__name__}")
    for name, notation, weight in (("w1", "[m, K, C]", w1), ("w2", "[m, n, K]", w2)):
        if weight.dim() != 3 or weight.shape[1] == 0:
            raise ValueError(
                f"{function}: {name} must be {notation}, each at least 1, "
                f"got {_shape(weight.shape)}"
            )
    inputs, channels = len(xs), xs[0].shape[1]
    hidden, outputs = w1.shape[1], w2.shape[1]
    _check_tensor(function, "w1", w1, "[m, K, C]", (inputs, hidden, channels), xs[0])
    _check_tensor(function, "w2", w2, "[m, n, K]", (inputs, outputs, hidden), xs[0])
    if b1 is not None:
        _check_tensor(function, "b1", b1, "[m, K]", (inputs, hidden), xs[0])
    if b2 is not None:
        _check_tensor(function, "b2", b2, "[m, n]", (inputs, outputs), xs[0])


def check_mix(function: str, xs: Sequence[Tensor], gates: Tensor) -> None:
    """Raises unless xs are paths and gates weight them."""
    check_paths(function, xs)
    if not isinstance(gates, Tensor):
        raise TypeError(f"{function}: gates must be a tensor, got {type(gates).__name__}")
    batch, channels = xs[0].shape[:2]
    if gates.dim() not in (3, 4) or gates.shape[2] == 0:
        raise ValueError(
            f"{function}: gates must be [B, m, n] or [B, m, n, C] with n at least 1, "
            f"got {_shape(gates.shape)}"
        )
    wanted = [batch, len(xs), gates.shape[2], channels][: gates.dim()]
    notation = "[B, m, n]" if gates.dim() == 3 else "[B, m, n, C]"
    _check_tensor(function, "gates", gates, notation, wanted, xs[0])


def check_combine(
    function: str,
    us: Sequence[Tensor],
    gates: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
) -> None:
    """Raises unless us are predictions of n maps each, which gates and parameters fit."""
    check_paths(function, us, "us")
    if not isinstance(gates, Tensor):
        raise TypeError(f"{function}: gates must be a tensor, got {type(gates).__name__}")
    if gates.dim() != 3 or gates.shape[2] == 0:
        raise ValueError(
            f"{function}: gates must be [B, m, n] with n at least 1, got {_shape(gates.shape)}"
        )
    (batch, channels), (inputs, outputs) = us[0].shape[:2], (len(us), gates.shape[2])
    _check_tensor(function, "gates", gates, "[B, m, n]", (batch, inputs, outputs), us[0], "us")
    if channels % outputs != 0:
        raise ValueError(
            f"{function}: us must be [B, n*C', *spatial] with n = {outputs} as gates, "
            f"got {int(channels)} channels"
        )
    sizes = inputs, channels
    if bias is not None:
        _check_tensor(function, "bias", bias, "[m, n*C']", sizes, us[0], "us")
    sizes = outputs, channels // outputs
    for name, value in (("scale", scale), ("shift", shift)):
        if value is not None:
            _check_tensor(function, name, value, "[n, C']", sizes, us[0], "us")


def check_cross_predict(
    function: str,
    xs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
) -> None:
    """Raises unless xs are vectors, and the parameters gates and predictions of them."""
    check_gate(function, xs, w1, b1, w2, b2)
    if xs[0].dim() != 2:
        raise ValueError(f"{function}: xs[0] must be [B, C], got {_shape(xs[0].shape)}")
    if not isinstance(weight, Tensor):
        raise TypeError(f"{function}: weight must be a tensor, got {type(weight).__name__}")
    inputs, outputs = w2.shape[:2]
    if weight.dim() != 3 or weight.shape[1] % outputs != 0:
        raise ValueError(
            f"{function}: weight must be [m, n*C', C] with n = {outputs} as w2, "
            f"got {_shape(weight.shape)}"
        )
    rows, channels = weight.shape[1], xs[0].shape[1]
    _check_tensor(function, "weight", weight, "[m, n*C', C]", (inputs, rows, channels), xs[0])
    check_dtype(xs[0], weight, xs[0].device.type)
    if bias is not None:
        _check_tensor(function, "bias", bias, "[m, n*C']", (inputs, rows), xs[0])
    for name, value in (("scale", scale), ("shift", shift)):
        if value is not None:
            sizes = outputs, rows // outputs
            _check_tensor(function, name, value, "[n, C']", sizes, xs[0])


def check_flag(function: str, name: str, value: bool) -> None:
    """Raises unless the value is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{function}: {name} must be a bool, got {type(value).__name__}")
