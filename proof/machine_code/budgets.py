"""Compiles the kernels for GPUs that this machine lacks, and compares them with their ceilings.

`python -m proof.machine_code.budgets` prints one line per kernel and router of the paper's networks
and exits with 1 if a kernel is above its ceiling; the argument '64x8x8 3->3' names one router.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from typing import NamedTuple

import torch
import triton

from proof.machine_code.aot import TARGETS, Compiled, compile_for, source
from proof.machine_code.ceilings import CEILINGS, Ceiling, exceeded
from proof.problems.networks import NETWORKS, PREDICTED, Router, shape
from proof.recorder import (
    Launched,
    combine_launches_of,
    launches_of,
    mix_launches_of,
    other_launches_of,
)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAUNCHES = {
    "cross_connect": launches_of,
    "combine": combine_launches_of,
    "mix": mix_launches_of,
    "other": other_launches_of,
}
PAPER = ("cross_connect", "combine")  # operators of the paper's networks
SHARED_BYTES = 49152  # static shared memory that every GPU grants
COLUMNS = ("router", "dtype", "layout", "kernel", "target", "instructions", "barriers",
           "shared stores", "spilled", "registers", "trips", "CPU seconds")  # fmt: skip


class Job(NamedTuple):
    """One operator's forward and backward at one router; "other" is all other kernels."""

    operator: str
    router: Router
    dtype: str = "fp32"
    layout: str = "nchw"

    def __str__(self) -> str:
        return f"{self.operator} {shape(self.router)} {self.dtype} {self.layout}"

    def launches(self) -> list[Launched]:
        """Its launches, with every gradient needed, except those that "other" leaves out."""
        return _launches(self)


class Row(NamedTuple):
    """One launch and its compiled code."""

    job: Job
    kernel: str
    target: str
    num_warps: int
    maps: tuple[int, int]  # 16-byte loads and stores that its tiles of maps need
    code: Compiled

    def exceeded(self) -> list[str]:
        """The ceilings that it exceeds, in words."""
        excesses = exceeded(self.kernel, shape(self.job.router), self.target, self.code)
        return [f"{self.job.dtype} {self.job.layout}: {each}" for each in excesses]

    def __str__(self) -> str:
        code, (_, router, dtype, layout) = self.code, self.job
        cells = (
            shape(router), dtype, layout, self.kernel, self.target, code.instructions,
            code.barriers, code.shared_stores, code.spilled_bytes, code.registers,
            code.trips, f"{code.cpu_seconds:.1f}",
        )  # fmt: skip
        return f"| {' | '.join(map(str, cells))} |"


# Together they launch every kernel: a sample kept in registers, walked by a block, or split over
# blocks.
EVERY_KERNEL = [
    Job("cross_connect", Router("", 64, (8, 8), 2, 2)),
    Job("cross_connect", Router("", 16, (32, 32), 4, 4)),
    Job("other", Router("", 64, (56, 56), 2, 2)),
    Job("other", Router("", 16, (8, 8), 3, 3)),
]


def key_of(launch: Launched) -> str:
    """A key that is equal for launches that compile to the same code."""
    specialisation = source(launch.kernel, launch.arguments, launch.constants)
    return f"{specialisation.hash()} {launch.options}"


@lru_cache(maxsize=1)  # enough, since kernels of one job are compiled in a row
def _launches(job: Job) -> list[Launched]:
    last = job.layout == "channels_last"
    directions = LAUNCHES[job.operator](job.router, DTYPES[job.dtype], channels_last=last)
    # A batch in several groups of samples launches the same kernel several times.
    return list({key_of(each): each for launches in directions for each in launches}.values())


def routers(operator: str) -> list[Router]:
    """The paper's routers for the operator, each shape once."""
    networks = PREDICTED if operator == "combine" else NETWORKS
    unique = {(r.channels, r.spatial, r.inputs, r.outputs): r for n in networks.values() for r in n}
    return list(unique.values())


def jobs_of(operator: str, chosen: list[Router]) -> list[Job]:
    """One job per router, dtype and layout; vectors have no channels_last."""
    return [
        Job(operator, router, dtype, layout)
        for router in chosen
        for dtype in DTYPES
        for layout in ("nchw", "channels_last")
        if router.spatial or layout == "nchw"
    ]


def map_accesses(launch: Launched, target: str) -> tuple[int, int]:
    """The fewest 16-byte loads and stores per thread that cover the kernel's tiles of maps."""
    lanes = 64 if TARGETS[target].backend == "hip" else 32
    sizes, name = launch.constants, launch.kernel.__name__  # type: ignore[attr-defined]
    m, n = sizes.get("INPUTS", 0), sizes.get("OUTPUTS", 0)
    bytes_of_threads = launch.options["num_warps"] * lanes * 16

    def wide(values: int) -> int:
        return values * launch.arguments[0][0].element_size() // bytes_of_threads

    # Rows and columns of a kept tile beyond the map's are padding, which need not be accessed.
    kept = sizes.get("CHANNELS", 0) * sizes.get("POSITIONS", 0)
    walk = sizes.get("BLOCK_WALK", 0)
    pool = sizes.get("BLOCK_CHANNELS", 0) * sizes.get("BLOCK_POSITIONS", 0)
    tile = sizes.get("BLOCK_ROWS", 0) * sizes.get("BLOCK_COLS", 0)
    group = sizes.get("GROUPS", 0) * sizes.get("LINES", 0) * sizes.get("WIDTH", 0)
    loads, stores = {
        "resident_kernel": ([kept] * m, [kept] * n),
        "resident_backward_kernel": ([kept] * (m + n), [kept] * m),
        "streamed_kernel": ([pool] * m + [walk] * m, [walk] * n),
        "streamed_backward_kernel": ([walk] * (m + 2 * n), [walk] * m),
        "split_pool_kernel": ([pool] * m, []),
        "split_mix_kernel": ([walk] * m, [walk] * n),
        "split_dot_kernel": ([walk] * (m + n), []),
        "split_grad_kernel": ([walk] * n, [walk] * m),
        "_mix_kernel": ([tile] * m, [tile] * n),
        "_mix_backward_kernel": ([tile] * (m + n), [tile] * m),
        "_mix_channels_backward_kernel": ([group] * (m + n), [group] * m),
        "_combine_kernel": ([tile] * m, [tile]),
        "_combine_backward_kernel": ([tile] * (m + 1), [tile] * m),
    }.get(name, ([], []))
    return sum(map(wide, loads)), sum(map(wide, stores))


def _compile(job: Job, index: int, target: str) -> Row:
    launch = job.launches()[index]
    code = compile_for(target, launch.kernel, launch.arguments, launch.constants, launch.options)
    accesses = map_accesses(launch, target) if job.operator != "other" else (0, 0)
    warps = launch.options["num_warps"]
    return Row(job, launch.kernel.__name__, target, warps, accesses, code)  # type: ignore[attr-defined]


def rows(jobs: list[Job], targets: list[str], processes: int = 2) -> Iterator[Row]:
    """Every kernel of these jobs for these targets; equal specialisations are compiled once."""
    units = {}
    for job in jobs:
        for index, launch in enumerate(job.launches()):
            for target in targets:
                units.setdefault((key_of(launch), target), (job, index, target))
    if processes == 1:
        yield from (_compile(*unit) for unit in units.values())
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(_compile, *zip(*units.values()))


def all_rows() -> Iterator[Row]:
    """Every kernel at every router of the paper for sm_90, and once for the other targets."""
    paper = [job for name in PAPER for job in jobs_of(name, routers(name))]
    yield from rows([*paper, *EVERY_KERNEL], ["sm_90"])
    yield from rows(EVERY_KERNEL, [target for target in TARGETS if target != "sm_90"])


def router_of(text: str) -> Router:
    """Parses a router such as 64x8x8 2->3."""
    channels, *spatial, inputs, outputs = map(int, re.findall(r"\d+", text))
    return Router("", channels, tuple(spatial), inputs, outputs)


def main() -> int:
    """Prints the rows, then each kernel's maximum beside its ceiling."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("routers", nargs="*", metavar="CxHxW m->n", help="default: the paper's")
    parser.add_argument("--operator", choices=LAUNCHES, default=PAPER[0], help="of these routers")
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=["sm_90"])
    arguments = parser.parse_args()
    print(f"Triton {triton.__version__}:\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    jobs = jobs_of(arguments.operator, [router_of(text) for text in arguments.routers])
    compiled = []
    for row in rows(jobs, arguments.targets) if jobs else all_rows():
        print(row, flush=True)
        compiled.append(row)
    print(f"\n| most / ceiling | {' | '.join(Ceiling._fields)} |")
    print(f"|{'---|' * (1 + len(Ceiling._fields))}")
    for kernel in dict.fromkeys(row.kernel for row in compiled):
        codes = [row.code for row in compiled if row.kernel == kernel]
        most = [max(getattr(code, name) for code in codes) for name in Ceiling._fields]
        ceiling = CEILINGS.get(kernel, ("none",) * len(most))
        cells = [f"{value:.4g} / {limit}" for value, limit in zip(most, ceiling)]
        print(f"| {kernel} | {' | '.join(cells)} |")
    excesses = [excess for row in compiled for excess in row.exceeded()]
    summary = f"{len(compiled)} kernels compiled, {len(excesses)} above a ceiling"
    print("", summary, *excesses, sep="\n")
    return 1 if excesses else 0


if __name__ == "__main__":
    sys.exit(main())
