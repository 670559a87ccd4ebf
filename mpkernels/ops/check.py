"""Checks of users' arguments, before any kernel runs.

Messages name the argument, what was wanted and what was found, in the notation of the
documentation: B batch, C channels, m input paths, n output paths, K hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mpkernels.eager.arguments import (
    FLOATING,
    as_list,
    check_dense,
    check_dtype,
    check_floating,
    check_maps,
    hint_of_channels,
    hint_of_stack,
    is_dense,
    shape,
)
from mpkernels.eager.functional import KINDS


def paths_of(function: str, name: str, xs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The paths as a list, whatever it holds; raises unless xs, the argument `name`, is a list."""
    return list(xs) if type(xs) in (list, tuple) else as_list(f"{function}: {name}", xs)


def check_tensors(function: str, name: str, xs: Sequence[Tensor]) -> None:
    """Raises unless xs, the argument `name`, are m >= 1 tensors."""
    if len(xs) == 0:
        raise ValueError(f"{function}: {name} must hold at least one path, got none")
    for i, x in enumerate(xs):
        if not isinstance(x, Tensor):
            check_dense(f"{function}: {name}[{i}]", x)


def check_paths(function: str, xs: Sequence[Tensor], name: str = "xs") -> None:
    """Raises unless the tensors xs are floating-point maps of one shape, dtype and device."""
    check_maps(xs, name, f"{function}: ")


def _check_required(function: str, name: str, value: Any) -> None:
    """Raises unless a parameter that cannot be None is a dense tensor."""
    if not is_dense(value):
        check_dense(f"{function}: {name}", value)


def _check_fits(
    function: str,
    name: str,
    value: Tensor,
    notation: str,
    wanted: Sequence[int],
    like: Tensor,
    paths: str = "xs",
) -> None:
    """Raises unless a dense tensor has this shape, a dtype of maps and the paths' device."""
    if tuple(value.shape) != tuple(wanted):
        raise ValueError(
            f"{function}: {name} must be {notation} = {shape(wanted)}, got {shape(value.shape)}"
        )
    if value.dtype not in FLOATING:
        check_floating(f"{function}: {name}", value)
    if value.device != like.device:
        raise ValueError(
            f"{function}: {name} must be on {like.device} as {paths}, got {value.device}"
        )


def _check_optional(function: str, name: str, value: Any, *rest: Any) -> None:
    """As `_check_fits`, of an argument that may be None."""
    if value is not None:
        _check_required(function, name, value)
        _check_fits(function, name, value, *rest)


def _check_gates(
    function: str,
    gates: Tensor,
    notation: str,
    wanted: Sequence[int],
    xs: Sequence[Tensor],
    name: str = "xs",
) -> None:
    """Raises unless gates fit the paths, and tells where these may be one stack."""
    try:
        _check_fits(function, "gates", gates, notation, wanted, xs[0], name)
    except ValueError as error:
        if gates.shape[1] != 1 and (hint := hint_of_stack(xs, gates.shape[1], None, name)):
            raise ValueError(f"{error}{hint}") from None
        raise


def _check_fit(function: str, xs: Sequence[Tensor], inputs: int, channels: int) -> None:
    """Raises unless the paths are as many, and have as many channels, as w1 is made for."""
    if len(xs) != inputs:
        hint = hint_of_stack(xs, inputs, channels)
        raise ValueError(
            f"{function}: xs must hold m = {inputs} paths as w1 [m, K, C], got {len(xs)}{hint}"
        )
    if xs[0].shape[1] != channels:
        hint = hint_of_channels(xs[0], channels) or hint_of_stack(xs, 1, channels)
        raise ValueError(
            f"{function}: xs[0] must have C = {int(channels)} channels as w1 [m, K, C], "
            f"got {int(xs[0].shape[1])} in {shape(xs[0].shape)}{hint}"
        )


def check_gate(
    function: str, xs: Sequence[Tensor], gate: Sequence[Tensor | None], kind: int
) -> None:
    """Raises unless xs are paths and the parameters are gates of a known kind for them."""
    check_paths(function, xs)
    if not 0 <= kind < len(KINDS):
        raise ValueError(f"{function}: kind must be the number of one of {KINDS}, got {kind}")
    if len(gate) != 4:
        raise ValueError(f"{function}: gate must be [w1, b1, w2, b2], got {len(gate)} entries")
    w1, b1, w2, b2 = gate
    _check_required(function, "w1", w1)
    _check_required(function, "w2", w2)
    assert w1 is not None and w2 is not None
    for name, notation, weight in (("w1", "[m, K, C]", w1), ("w2", "[m, n, K]", w2)):
        if weight.dim() != 3 or weight.shape[1] == 0:
            raise ValueError(
                f"{function}: {name} must be {notation}, each at least 1, got {shape(weight.shape)}"
            )
    (inputs, hidden, channels), outputs = w1.shape, w2.shape[1]
    _check_fit(function, xs, inputs, channels)
    _check_fits(function, "w1", w1, "[m, K, C]", (inputs, hidden, channels), xs[0])
    _check_fits(function, "w2", w2, "[m, n, K]", (inputs, outputs, hidden), xs[0])
    _check_optional(function, "b1", b1, "[m, K]", (inputs, hidden), xs[0])
    _check_optional(function, "b2", b2, "[m, n]", (inputs, outputs), xs[0])


def _check_affine(function: str, affine: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """The bias, scale and shift, any of them None."""
    if len(affine) != 3:
        raise ValueError(
            f"{function}: affine must be [bias, scale, shift], got {len(affine)} entries"
        )
    return affine


def check_mix(function: str, xs: Sequence[Tensor], gates: Tensor) -> None:
    """Raises unless xs are paths and gates weight them."""
    check_paths(function, xs)
    _check_required(function, "gates", gates)
    batch, channels = xs[0].shape[:2]
    if gates.dim() not in (3, 4) or gates.shape[2] == 0:
        raise ValueError(
            f"{function}: gates must be [B, m, n] or [B, m, n, C] with n at least 1, "
            f"got {shape(gates.shape)}"
        )
    wanted = [batch, len(xs), gates.shape[2], channels][: gates.dim()]
    notation = "[B, m, n]" if gates.dim() == 3 else "[B, m, n, C]"
    _check_gates(function, gates, notation, wanted, xs)


def check_combine(
    function: str,
    us: Sequence[Tensor],
    gates: Tensor,
    affine: Sequence[Tensor | None],
    relu: bool,
) -> None:
    """Raises unless us are predictions of n maps each, which gates and parameters fit."""
    check_paths(function, us, "us")
    bias, scale, shift = _check_affine(function, affine)
    _check_required(function, "gates", gates)
    if gates.dim() != 3 or gates.shape[2] == 0:
        raise ValueError(
            f"{function}: gates must be [B, m, n] with n at least 1, got {shape(gates.shape)}"
        )
    (batch, channels), (inputs, outputs) = us[0].shape[:2], (len(us), gates.shape[2])
    _check_gates(function, gates, "[B, m, n]", (batch, inputs, outputs), us, "us")
    if channels % outputs != 0:
        raise ValueError(
            f"{function}: us must be [B, n*C', *spatial] with n = {outputs} as gates, "
            f"got {int(channels)} channels"
        )
    sizes = inputs, channels
    _check_optional(function, "bias", bias, "[m, n*C']", sizes, us[0], "us")
    sizes = outputs, channels // outputs
    for name, value in (("scale", scale), ("shift", shift)):
        _check_optional(function, name, value, "[n, C']", sizes, us[0], "us")


def check_cross_predict(
    function: str,
    xs: Sequence[Tensor],
    weight: Tensor,
    affine: Sequence[Tensor | None],
    gate: Sequence[Tensor | None],
    kind: int,
    relu: bool,
) -> None:
    """Raises unless xs are vectors, and the parameters gates and predictions of them."""
    check_gate(function, xs, gate, kind)
    bias, scale, shift = _check_affine(function, affine)
    if xs[0].dim() != 2:
        raise ValueError(f"{function}: xs[0] must be [B, C], got {shape(xs[0].shape)}")
    _check_required(function, "weight", weight)
    inputs, outputs = gate[2].shape[:2]  # type: ignore[union-attr]
    if weight.dim() != 3 or weight.shape[1] % outputs != 0:
        raise ValueError(
            f"{function}: weight must be [m, n*C', C] with n = {outputs} as w2, "
            f"got {shape(weight.shape)}"
        )
    rows, channels = weight.shape[1], xs[0].shape[1]
    _check_fits(function, "weight", weight, "[m, n*C', C]", (inputs, rows, channels), xs[0])
    check_dtype(xs[0], weight, xs[0].device.type)
    _check_optional(function, "bias", bias, "[m, n*C']", (inputs, rows), xs[0])
    for name, value in (("scale", scale), ("shift", shift)):
        _check_optional(function, name, value, "[n, C']", (outputs, rows // outputs), xs[0])


def check_flag(function: str, name: str, value: Any) -> None:
    """Raises unless the value is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{function}: {name} must be a bool, got {type(value).__name__}")
