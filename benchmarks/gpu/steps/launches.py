"""Every kernel once, on small maps, by every method, whatever the rule would choose.

Results are checked as in `correctness`. `python -m benchmarks.gpu.steps.launches` runs all cases in
one process, for tools that watch one.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch

import mpkernels as mpk
from benchmarks.gpu.steps.correctness import check
from benchmarks.gpu.steps.drawn import Case, Router
from mpkernels.ops.layout import Geometry
from mpkernels.ops.onchip import CLUSTERS, OnChip
from mpkernels.triton import cross_connect
from mpkernels.triton.launch import PARAMETER_SAMPLES, Walk, chunks_of
from proof.launches import launched

SMALL, VECTOR = Router(13, (5, 7), 2, 3), Router(4, (), 2, 3)
TILES, TALL = Router(24, (8, 8), 2, 3), Router(33, (16, 17), 2, 3)


class Launch(NamedTuple):
    """An operator of one problem, by the method that is forced on it."""

    operator: str
    case: Case
    method: str = ""  # the rule's if empty
    cluster: int = 0


def _launches() -> dict[str, Launch]:
    launches = {}

    def add(text: str, *launch: Any) -> None:
        launches[text] = Launch(*launch)

    for dtype in ("fp32", "bf16"):
        for cluster in CLUSTERS:
            case = Case(TILES, dtype, "nchw", 3)
            add(f"CUDA C++ cluster {cluster} {dtype}", "cross_connect", case, "", cluster)
        for operator in ("cross_connect", "gate", "mix", "mix by channel", "combine"):
            add(f"{operator} {dtype}", operator, Case(SMALL, dtype, "nchw", 3))
        for method in ("streamed", "split"):
            for layout in ("nchw", "channels_last"):
                text = f"{method} {layout} {dtype}"
                add(text, "cross_connect", Case(TALL, dtype, layout, 5), method)
        large = Case(VECTOR, dtype, "nchw", PARAMETER_SAMPLES + 1)
        add(f"cross_connect of many vectors {dtype}", "cross_connect", large)
        add(f"combine of many vectors {dtype}", "combine", large)
        add(f"gate channels_last {dtype}", "gate", Case(TALL, dtype, "channels_last", 3))
        add(f"combine channels_last {dtype}", "combine", Case(TALL, dtype, "channels_last", 3))
        add(f"mix channels_last {dtype}", "mix", Case(TALL, dtype, "channels_last", 3))
    for cluster in CLUSTERS:
        case = Case(SMALL, "fp32", "channels_last", 3)
        add(f"CUDA C++ cluster {cluster} channels_last", "cross_connect", case, "", cluster)
    return launches


LAUNCHES = _launches()


def cases() -> list[str]:
    """An operator and how it is launched."""
    return list(LAUNCHES)


def forced(launch: Launch) -> contextlib.AbstractContextManager[None]:
    """The method of a launch, for all routers meanwhile."""
    (channels, spatial, inputs, outputs), dtype, layout, batch = launch.case
    if launch.cluster:
        return cross_connect.forced(OnChip(launch.cluster, 0))
    if not launch.method:
        return contextlib.nullcontext()
    itemsize = 4 if dtype == "fp32" else 2
    geometry = Geometry(layout == "channels_last", batch, channels, spatial[0] * spatial[1])
    chunks = chunks_of(geometry, 16, itemsize, inputs, outputs)
    # Two samples in flight, fewer than there are: each block or group takes several.
    return cross_connect.forced(Walk(launch.method, 2, chunks))


def run(name: str, device: str = "cuda") -> dict[str, Any]:
    """Checks it, and names the Triton kernels that ran."""
    launch = LAUNCHES[name]
    with launched() as names, forced(launch), mpk.use_backend("triton"):
        row = check(launch.case, launch.operator, device)
    return row | {"kernels": sorted(set(names))}


if __name__ == "__main__":
    for each in cases():
        print(each, run(each)["right"], flush=True)
    torch.cuda.synchronize()
