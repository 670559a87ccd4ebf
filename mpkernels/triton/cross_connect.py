"""cross_connect: chooses between the resident and the streamed kernels and launches them."""

from __future__ import annotations

import torch
from torch import Tensor

from mpkernels.ops.layout import Geometry, Strides, empty_map, geometry_of, readable
from mpkernels.triton.gate import contiguous
from mpkernels.triton.launch import Launch, cross_connect_launch, next_power_of_2, on_device_of
from mpkernels.triton.parameters import parameter_gradients
from mpkernels.triton.resident import resident_backward_kernel, resident_kernel
from mpkernels.triton.streamed import streamed_backward_kernel, streamed_kernel


class Maps:
    """Maps of one call as the kernels take them: tuples of tensors and of strides."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._tensors: list[Tensor] = []
        self._strides: list[Strides] = []
        self._made: list[tuple[Tensor, Tensor]] = []

    def read(self, x: Tensor) -> None:
        """Adds x, or the one copy of it that can be read."""
        tensor, strides = readable(x, self._geometry)
        self._tensors.append(tensor)
        self._strides.append(strides)

    def write(self, x: Tensor) -> None:
        """Adds a new map in the format of x."""
        made = empty_map(x)
        # Where x has another format than the first path, the kernel writes that one's.
        target, strides = readable(made, self._geometry)
        self._made.append((made, target))
        self._tensors.append(target)
        self._strides.append(strides)

    def skip(self, unused: Tensor) -> None:
        """Adds a place that the kernel never touches."""
        self._tensors.append(unused)
        self._strides.append(Strides(0, 0))

    def arguments(self) -> tuple[tuple[Tensor, ...], tuple[int, ...], tuple[int, ...]]:
        """Tensors, batch strides and row strides."""
        batch = tuple(s.batch for s in self._strides)
        return tuple(self._tensors), batch, tuple(s.row for s in self._strides)

    def finish(self) -> list[Tensor]:
        """The new maps."""
        return [made if made is target else made.copy_(target) for made, target in self._made]


def _constants(geometry: Geometry, launch: Launch, w1: Tensor, w2: Tensor) -> dict[str, object]:
    return {
        "INPUTS": w1.shape[0],
        "OUTPUTS": w2.shape[1],
        "HIDDEN": w1.shape[1],
        "CHANNELS_LAST": geometry.channels_last,
        "BLOCK_ROWS": launch.block_rows,
        "BLOCK_COLS": launch.block_cols,
        "BLOCK_CHANNELS": launch.block_channels,
        "BLOCK_HIDDEN": next_power_of_2(w1.shape[1]),
        "BLOCK_OUTPUTS": next_power_of_2(w2.shape[1]),
        "num_warps": launch.num_warps,
    }


def cross_connect(
    xs: list[Tensor], w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Launches once: ys, gates [B, m, n] and pooled [B, m, C]."""
    geometry = geometry_of(xs[0])
    dtype = torch.float64 if xs[0].dtype == torch.float64 else torch.float32
    inputs, outputs = Maps(geometry), Maps(geometry)
    for x in xs:
        inputs.read(x)
    for _ in range(w2.shape[1]):
        outputs.write(xs[0])
    gates = xs[0].new_empty((geometry.batch, len(xs), w2.shape[1]), dtype=dtype)
    pooled = xs[0].new_empty((geometry.batch, len(xs), geometry.channels), dtype=dtype)
    if geometry.batch > 0:
        launch = cross_connect_launch(geometry, len(xs), w1.shape[1])
        kernel = resident_kernel if launch.method == "resident" else streamed_kernel
        with on_device_of(gates):
            kernel[(geometry.batch,)](
                *inputs.arguments(),
                *outputs.arguments(),
                *contiguous(w1, b1, w2, b2),
                gates,
                pooled,
                geometry.channels,
                geometry.positions,
                **_constants(geometry, launch, w1, w2),
            )
    return outputs.finish(), gates, pooled


def cross_connect_backward(
    grad_ys: list[Tensor | None],
    grad_gates: Tensor | None,
    xs: list[Tensor],
    gates: Tensor,
    pooled: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    wanted: list[bool],
) -> tuple[list[Tensor], list[Tensor]]:
    """Launches once, and once more where parameters want gradients."""
    geometry = geometry_of(xs[0])
    batch, m, n, units = geometry.batch, len(xs), w2.shape[1], w1.shape[1]
    inputs, outer, grad_inputs = Maps(geometry), Maps(geometry), Maps(geometry)
    for grad in grad_ys:
        if grad is None:
            outer.skip(xs[0])
        else:
            outer.read(grad)
    for x, w in zip(xs, wanted):
        inputs.read(x)
        if w:
            grad_inputs.write(x)
        else:
            grad_inputs.skip(x)
    parameters_wanted = any(wanted[m:])
    grad_logits = pooled.new_empty((batch, m, n))
    grad_hidden, hidden = (pooled.new_empty((batch, m, units)) for _ in range(2))
    grad_gates, gates, pooled = contiguous(grad_gates, gates, pooled)
    if batch > 0:
        launch = cross_connect_launch(geometry, n, units)
        resident = launch.method == "resident"
        kernel = resident_backward_kernel if resident else streamed_backward_kernel
        with on_device_of(xs[0]):
            kernel[(batch,)](
                *outer.arguments(),
                *inputs.arguments(),
                *grad_inputs.arguments(),
                grad_gates,
                gates,
                pooled,
                *contiguous(w1, b1, w2),
                grad_logits,
                grad_hidden,
                hidden,
                geometry.channels,
                geometry.positions,
                PRESENT=sum(1 << j for j, grad in enumerate(grad_ys) if grad is not None),
                WANTED=sum(1 << i for i, w in enumerate(wanted[:m]) if w),
                PARAMETERS=parameters_wanted,
                **_constants(geometry, launch, w1, w2),
            )
    return grad_inputs.finish(), parameter_gradients(
        grad_logits, grad_hidden, hidden, pooled, (w1, b1, w2, b2), wanted[m:]
    )
