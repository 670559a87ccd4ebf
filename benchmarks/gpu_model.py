"""What on-chip kernels should gain over two passes on an H100: `python -m benchmarks.gpu_model`.

A model to be held against measurements, in bf16 and NCHW, printed as docs/kernels.md shows it. Two
passes take the floor's bytes at memory's speed, the second read at that of L2, and their launches
beyond the first. On chip takes the floor's bytes at memory's speed; at worst the last wave of
clusters leaves memory idle as it leaves blocks idle.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

from networks import NETWORKS, Router, shape

from mpkernels.ops.layout import Geometry
from mpkernels.ops.onchip import ASSUMED as CHIP
from mpkernels.ops.onchip import RESERVED_BYTES, OnChip, on_chip
from mpkernels.triton.launch import ASSUMED, Walk, cross_connect_launch

MEMORY, L2 = 3.0e12, 5.5e12  # bytes a second
LAUNCH = 3e-6  # seconds
BATCHES = (32, 128, 256)
ITEMSIZE, HIDDEN = 2, 16
HEAD = (
    "router", "direction", "blocks x KiB", "blocks a multiprocessor", "clusters at once", "waves",
    "expected gain over two passes",
)  # fmt: skip


def geometry_of(router: Router, batch: int) -> Geometry:
    """Of one map."""
    return Geometry(False, batch, router.channels, math.prod(router.spatial))


def launches_of_two_passes(router: Router, backward: bool, batch: int) -> int:
    """By the rule that holds where no cluster is."""
    sizes = router.inputs, router.outputs, HIDDEN, ITEMSIZE
    found = cross_connect_launch(geometry_of(router, batch), *sizes, ASSUMED, backward)
    assert isinstance(found, Walk)
    return 1 if found.method == "streamed" else 2 * -(-batch // found.samples)


def gains(router: Router, backward: bool, waves: float, batch: int) -> tuple[float, float]:
    """Time of two passes over that on chip, at worst and at best."""
    one = batch * router.channels * math.prod(router.spatial) * ITEMSIZE
    m, n = router.inputs, router.outputs
    floor, again = ((2 * m + n) * one, n * one) if backward else ((m + n) * one, m * one)
    further = launches_of_two_passes(router, backward, batch) - 1
    best = floor / MEMORY
    two_passes = best + again / L2 + LAUNCH * further
    return two_passes / (best * math.ceil(waves) / waves), two_passes / best


def _range(low: float, high: float) -> str:
    texts = dict.fromkeys(f"{value:.1f}" for value in (low, high))
    return "-".join(texts)


def line(router: Router, backward: bool, found: OnChip) -> list[str]:
    """A row of the table."""
    resident = CHIP.multiprocessor_bytes // (found.bytes + RESERVED_BYTES)
    at_once = resident * ASSUMED.multiprocessors // found.cluster
    waves = {batch: batch / at_once for batch in BATCHES}
    return [
        shape(router),
        "backward" if backward else "forward",
        f"{found.cluster} x {found.bytes / 1024:.0f}",
        str(resident),
        str(at_once),
        ", ".join(f"{count:.1f}" for count in waves.values()),
        ", ".join(_range(*gains(router, backward, count, b)) for b, count in waves.items()),
    ]


def lines() -> Iterator[list[str]]:
    """Every router of the ImageNet ResNets that a cluster keeps, each shape once."""
    seen: set[str] = set()
    for router in (*NETWORKS["resnet18_2_cc"], *NETWORKS["resnet50_2_cc"]):
        if shape(router) in seen:
            continue
        seen.add(shape(router))
        for backward in (False, True):
            sizes = router.inputs, router.outputs, HIDDEN, ITEMSIZE
            found = on_chip(geometry_of(router, BATCHES[0]), *sizes, CHIP, backward)
            if found is not None:
                yield line(router, backward, found)


def table() -> str:
    """The table as Markdown."""
    rows = [HEAD, ("---",) * len(HEAD), *lines()]
    made = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return made.replace("| --- | --- | --- | --- | --- | --- | --- |", "|---" * len(HEAD) + "|")


def main() -> int:
    """Prints it."""
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
