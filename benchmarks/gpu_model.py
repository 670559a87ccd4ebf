"""What on-chip kernels should gain over two passes on an H100: `python -m benchmarks.gpu_model`.

A model to be held against measurements, in bf16 and NCHW, printed as docs/kernels.md shows it. Two
passes take the floor's bytes at memory's speed, the second read at that of L2, and their launches
beyond the first. On chip takes the floor's bytes at memory's speed; at worst the last wave of
clusters leaves memory idle as it leaves blocks idle. A second table has what fits other cards.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence

from networks import NETWORKS, Router, shape

from mpkernels.ops.layout import Geometry
from mpkernels.ops.onchip import ASSUMED as CHIP
from mpkernels.ops.onchip import RESERVED_BYTES, Chip, OnChip, on_chip
from mpkernels.triton.launch import ASSUMED, Walk, cross_connect_launch

MEMORY, L2 = 3.0e12, 5.5e12  # bytes a second
LAUNCH = 3e-6  # seconds
BATCHES = (32, 128, 256)
ITEMSIZE, HIDDEN = 2, 16
HEAD = (
    "router", "direction", "blocks x KiB", "blocks a multiprocessor", "clusters at once", "waves",
    "expected gain over two passes",
)  # fmt: skip
# Multiprocessors and shared memory: sm_80, which has no clusters, and sm_100.
OTHERS = {
    "A100": (108, Chip(166912, 167936, 1)),
    "B200": (148, Chip(232448, 233472, 16)),
}
COLUMNS = ("blocks x KiB", "at once", "waves")


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


def resident(found: OnChip, chip: Chip) -> int:
    """Blocks that the shared memory of a multiprocessor holds; registers suffice for these."""
    return chip.multiprocessor_bytes // (found.bytes + RESERVED_BYTES)


def at_once(found: OnChip, chip: Chip, multiprocessors: int) -> int:
    """Clusters that find a place, and hence samples."""
    return resident(found, chip) * multiprocessors // found.cluster


def _waves(samples: int) -> str:
    return ", ".join(f"{batch / samples:.1f}" for batch in BATCHES)


def _blocks(found: OnChip) -> str:
    return f"{found.cluster} x {found.bytes / 1024:.0f}"


def line(router: Router, backward: bool, found: OnChip) -> list[str]:
    """A row of the table."""
    samples = at_once(found, CHIP, ASSUMED.multiprocessors)
    return [
        shape(router),
        "backward" if backward else "forward",
        _blocks(found),
        str(resident(found, CHIP)),
        str(samples),
        _waves(samples),
        ", ".join(_range(*gains(router, backward, b / samples, b)) for b in BATCHES),
    ]


def kept_by(router: Router, backward: bool, chip: Chip) -> OnChip | None:
    """The blocks that keep a sample of the router."""
    sizes = router.inputs, router.outputs, HIDDEN, ITEMSIZE
    return on_chip(geometry_of(router, BATCHES[0]), *sizes, chip, backward)


def routers() -> Iterator[tuple[Router, bool]]:
    """Those of the ImageNet ResNets, each shape once, in both directions."""
    found = (*NETWORKS["resnet18_2_cc"], *NETWORKS["resnet50_2_cc"])
    for router in {shape(router): router for router in found}.values():
        yield from ((router, False), (router, True))


def lines() -> Iterator[list[str]]:
    """Every router that a cluster keeps on an H100."""
    for router, backward in routers():
        if (found := kept_by(router, backward, CHIP)) is not None:
            yield line(router, backward, found)


def other_lines() -> Iterator[list[str]]:
    """The same routers on other cards; "-" where two passes are all there is."""
    for router, backward in routers():
        cells = [shape(router), "backward" if backward else "forward"]
        for multiprocessors, chip in OTHERS.values():
            found = kept_by(router, backward, chip)
            samples = found and at_once(found, chip, multiprocessors)
            if not found or not samples:
                cells += ["-"] * len(COLUMNS)
            else:
                cells += [_blocks(found), str(samples), _waves(samples)]
        yield cells


def _markdown(head: Sequence[str], rows: Iterator[list[str]]) -> str:
    made = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([made[0], "|---" * len(head) + "|", *made[1:]])


def table() -> str:
    """What an H100 should gain, as Markdown."""
    return _markdown(HEAD, lines())


def other_table() -> str:
    """What fits other cards, as Markdown."""
    head = [f"{card}: {column}" for card in OTHERS for column in COLUMNS]
    return _markdown(("router", "direction", *head), other_lines())


def main() -> int:
    """Prints them."""
    print(f"{table()}\n\n{other_table()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
