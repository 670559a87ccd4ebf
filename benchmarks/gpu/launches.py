"""Every kernel once, on small maps, by every method, whatever the rule would choose.

Results are checked as in `correctness`. `python -m benchmarks.gpu.launches` runs all cases in one
process, for tools that watch one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

import mpkernels as mpk
from benchmarks.gpu.correctness import check
from benchmarks.gpu.drawn import Case, Router
from mpkernels.ops.layout import Geometry
from mpkernels.ops.onchip import CLUSTERS, OnChip
from mpkernels.triton import (
    combine,
    combine_parameter_grads,
    cross_connect,
    gate,
    gate_parameter_grads,
    mix,
)
from mpkernels.triton.launch import PARAMETER_SAMPLES, Walk, chunks_of

LAUNCHERS = (combine, combine_parameter_grads, cross_connect, gate, mix, gate_parameter_grads)
KERNELS = sorted(
    {name for module in LAUNCHERS for name in vars(module) if name.endswith("_kernel")}
)
SMALL, VECTOR = Router(13, (5, 7), 2, 3), Router(4, (), 2, 3)
TILES, TALL = Router(24, (8, 8), 2, 3), Router(33, (16, 17), 2, 3)


class Launch(NamedTuple):
    """An operator of one problem, by the method that is forced on it."""

    operator: str
    case: Case
    method: str = ""  # the rule's if empty
    cluster: int = 0


def _launches() -> dict[str, Launch]:
    found = {}

    def add(text: str, *launch: Any) -> None:
        found[text] = Launch(*launch)

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
    for cluster in CLUSTERS:
        case = Case(SMALL, "fp32", "channels_last", 3)
        add(f"CUDA C++ cluster {cluster} channels_last", "cross_connect", case, "", cluster)
    return found


LAUNCHES = _launches()


def cases() -> list[str]:
    """An operator and how it is launched."""
    return list(LAUNCHES)


class _Seen:
    """A kernel that notes that it was launched."""

    def __init__(self, name: str, kernel: Any, seen: set[str]) -> None:
        self.name, self.kernel, self.seen = name, kernel, seen

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.seen.add(self.name)
        return self.kernel[grid]


@contextlib.contextmanager
def launched() -> Iterator[set[str]]:
    """The names of the kernels that are launched meanwhile."""
    seen: set[str] = set()
    real = [
        (module, name, getattr(module, name))
        for module in LAUNCHERS
        for name in KERNELS
        if hasattr(module, name)
    ]
    for module, name, kernel in real:
        setattr(module, name, _Seen(name, kernel, seen))
    try:
        yield seen
    finally:
        for module, name, kernel in real:
            setattr(module, name, kernel)


def forced(launch: Launch) -> contextlib.AbstractContextManager[None]:
    """The method of a launch, for all routers meanwhile."""
    (channels, spatial, inputs, outputs), dtype, layout, batch = launch.case
    if launch.cluster:
        return cross_connect.forced(OnChip(launch.cluster, 0))
    if not launch.method:
        return contextlib.nullcontext()
    itemsize = 4 if dtype == "fp32" else 2
    geometry = Geometry(layout == "channels_last", batch, channels, spatial[0] * spatial[1])
    chunks = chunks_of(geometry, 16, itemsize, inputs * outputs)
    return cross_connect.forced(Walk(launch.method, 2, chunks))  # fewer than there are samples


def run(name: str, device: str = "cuda") -> dict[str, Any]:
    """Checks it, and names the Triton kernels that ran."""
    launch = LAUNCHES[name]
    with launched() as seen, forced(launch), mpk.use_backend("triton"):
        row = check(launch.case, launch.operator, device)
    return row | {"kernels": sorted(seen)}


def never_launched(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Kernels that no row has run to its end."""
    seen = {kernel for row in rows for kernel in row.get("kernels", ())}
    return [name for name in KERNELS if name not in seen]


if __name__ == "__main__":
    for each in cases():
        print(each, run(each)["right"], flush=True)
    torch.cuda.synchronize()
