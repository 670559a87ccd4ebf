"""Measures the traffic of every router of three networks in Triton's interpreter.

`TRITON_INTERPRET=1 python -m proof.traffic.page` writes docs/internals/traffic.md; with the
argument `combine` it measures only that operator's routers again and keeps the rest.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton

from mpkernels.eager.functional import SOFTMAX
from mpkernels.ops.flags import mask_of
from mpkernels.triton import cross_connect as launcher
from mpkernels.triton.combine import combine, combine_backward
from mpkernels.triton.cross_connect import cross_connect, cross_connect_backward
from mpkernels.triton.launch import ASSUMED, L2_SHARE, Resident, Walk, cross_connect_launch
from mpkernels.triton.launch_arguments import geometry_like
from proof.problems.networks import NETWORKS, PREDICTED, Router, shape
from proof.traffic.meter import Meter
from proof.where import ROOT

PAGE = ROOT / "docs/internals/traffic.md"
MEASURED = ("basecnn_3_cc", "resnet20_3_cc", "resnet18_2_cc")
TRAINED = 128  # images per batch, which decides how large samples are walked
MAPS = ("xs", "us", "ys", "grad_ys", "grad_xs", "grad_us")


class Direction(NamedTuple):
    """One direction of a router; bytes are divided by the floor."""

    method: str
    launches: int
    touched: float  # bytes that loads and stores of maps touch
    memory: float  # bytes expected to reach memory: without second reads that L2 serves
    small: float  # bytes of everything but maps


def routers() -> list[Router]:
    """Routers of the measured networks, each shape once."""
    unique = {r[1:]: r for name in MEASURED for r in NETWORKS[name]}
    return list(unique.values())


def launch_of(router: Router, x: torch.Tensor, batch: int, backward: bool) -> Resident | Walk:
    """The launch that is chosen for this batch on the assumed GPU."""
    geometry = geometry_like(x)._replace(batch=batch)
    return cross_connect_launch(
        geometry, router.inputs, router.outputs, 16, x.element_size(), ASSUMED, backward
    )


def _direction(router: Router, meter: Meter, x: torch.Tensor, backward: bool) -> Direction:
    m, n = router.inputs, router.outputs
    one = x.numel() * x.element_size()
    floor = (2 * m + n if backward else m + n) * one
    touched = sum(meter.loaded[name] + meter.stored[name] for name in MAPS)
    small = sum(meter.loaded.values()) + sum(meter.stored.values()) - touched
    launch = launch_of(router, x, TRAINED, backward)
    again = 0 if isinstance(launch, Resident) else (n if backward else m) * one
    if again:
        # Second reads hit L2, since the samples in flight fit its share.
        held = launch.samples * again // len(x)
        assert held <= ASSUMED.l2_bytes * L2_SHARE, (router, held)
    return Direction(
        launch.method, len(meter.launches), touched / floor, (touched - again) / floor,
        small / floor,
    )  # fmt: skip


@contextlib.contextmanager
def launched_as_in_training() -> Iterator[None]:
    """Within it, launches for a few samples are chosen as for a whole training batch."""
    original = launcher._launch_of

    def choose(geometry, *rest):
        return original(geometry._replace(batch=TRAINED), *rest)

    launcher._launch_of = choose  # type: ignore[assignment]
    try:
        yield
    finally:
        launcher._launch_of = original


@launched_as_in_training()
def measure(router: Router, dtype: torch.dtype) -> tuple[Direction, Direction]:
    """Forward and backward of three samples."""
    batch = 3
    m, n, channels = router.inputs, router.outputs, router.channels
    xs = [torch.randn(batch, channels, *router.spatial).to(dtype) for _ in range(m)]
    parameters = [torch.randn(*s) for s in ((m, 16, channels), (m, 16), (m, n, 16), (m, n))]
    with Meter() as forward:
        *ys, gates, pooled = cross_connect(xs, parameters, SOFTMAX)
    forward.assert_written_once(*ys, gates, pooled)
    grads = [torch.randn(ys[0].shape).to(dtype) for _ in ys]
    outer, wanted = [*grads, torch.randn(gates.shape)], mask_of((True,) * (m + 4))
    with Meter() as backward:
        results = cross_connect_backward(outer, [gates, pooled], xs, parameters, SOFTMAX, wanted)
    backward.assert_written_once(*results)
    directions = (
        _direction(router, forward, xs[0], False),
        _direction(router, backward, xs[0], True),
    )
    for direction, meter in zip(directions, (forward, backward)):
        assert all(name.startswith((direction.method, "_parameter")) for name in meter.launches)
    return directions


def combined() -> list[Router]:
    """The cross-prediction routers, each shape once."""
    unique = {r[1:]: r for network in PREDICTED.values() for r in network}
    return list(unique.values())


def measure_combine(
    router: Router, dtype: torch.dtype, layout: str, batch: int = 2
) -> tuple[Direction, Direction]:
    """Forward and backward of combine, with every gradient needed."""
    m, n, c = router.inputs, router.outputs, router.channels

    def map_of(channels: int) -> torch.Tensor:
        x = torch.randn(batch, channels, *router.spatial).to(dtype)
        return x.contiguous(memory_format=torch.channels_last) if layout != "nchw" else x

    us, grads = [map_of(n * c) for _ in range(m)], [map_of(c) for _ in range(n)]
    gates, *affine = [torch.randn(*s) for s in ((batch, m, n), (m, n * c), (n, c), (n, c))]
    with Meter() as forward:
        ys = combine(us, gates, affine, True)
    forward.assert_written_once(*ys)
    with Meter() as backward:
        wanted = mask_of((True,) * (m + 4))
        results = combine_backward(grads, [], us, gates, affine, True, wanted)
    backward.assert_written_once(*results)
    # Under the meter a masked lane without `other` loads NaN, which would spread to the sums.
    assert all(t.isfinite().all() for t in (*ys, *results))
    return _combine_direction(forward, grads[0], m * n + n), _combine_direction(
        backward, grads[0], 2 * m * n + n
    )


def _combine_direction(meter: Meter, y: torch.Tensor, maps: int) -> Direction:
    floor = maps * y.numel() * y.element_size()
    touched = sum(meter.loaded[name] + meter.stored[name] for name in MAPS)
    small = sum(meter.loaded.values()) + sum(meter.stored.values()) - touched
    launches = len(meter.launches)
    return Direction("tiles", launches, touched / floor, touched / floor, small / floor)


def page() -> str:
    """The page's text up to the section on combine."""
    lines = [
        "# What the Triton kernels load and store",
        "",
        "Counted by `TRITON_INTERPRET=1 python -m proof.traffic.page` in the interpreter of Triton",
        f"{triton.__version__}, on a machine without a GPU. Bytes of maps over the floor: (m + n)",
        "maps forward, (2m + n) backward. *touched*: by loads and stores. *memory*: expected of",
        "memory, that is without second reads of samples that L2 still holds (see kernels.md).",
        "*small*: gates, pooled values, parameters, partial sums and, where samples are walked,",
        "the dZ that every element of a map adds, which L1 holds.",
        f"Methods are those of batch {TRAINED} on a card of",
        f"{ASSUMED.multiprocessors} multiprocessors and {ASSUMED.l2_bytes >> 20} MiB of L2.",
        "",
        "| router | dtype | direction | method | touched | memory | small |",
        "|---|---|---|---|---|---|---|",
    ]
    for router in routers():
        for dtype in (torch.float32, torch.bfloat16):
            for direction, row in zip(("forward", "backward"), measure(router, dtype)):
                kind = "fp32" if dtype == torch.float32 else "bf16"
                lines.append(
                    f"| {shape(router)} | {kind} | {direction} | {row.method} | "
                    f"{row.touched:.2f} | {row.memory:.2f} | {row.small:.3f} |"
                )
    return "\n".join(lines) + "\n"


def page_of_combine() -> str:
    """The page's section on combine."""
    lines = [
        "",
        "## combine",
        "",
        "In maps of one output the floor is m n + n forward, 2 m n + n backward. *small*: gates",
        "and parameters, read by every tile, and what tiles leave for their gradients (batch 2).",
        "",
        "| router | dtype | layout | direction | launches | touched | small |",
        "|---|---|---|---|---|---|---|",
    ]
    for router in combined():
        for dtype in (torch.float32, torch.bfloat16):
            for layout in ("nchw", "channels_last") if router.spatial else ("nchw",):
                both = measure_combine(router, dtype, layout)
                for direction, row in zip(("forward", "backward"), both):
                    kind = "fp32" if dtype == torch.float32 else "bf16"
                    lines.append(
                        f"| {shape(router)} | {kind} | {layout} | {direction} | {row.launches} | "
                        f"{row.touched:.2f} | {row.small:.3f} |"
                    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    first_part = PAGE.read_text().partition("\n## combine")[0] if "combine" in sys.argv else page()
    PAGE.write_text(first_part + page_of_combine())
