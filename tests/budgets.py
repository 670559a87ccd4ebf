"""Compiles every kernel at every router of the paper's networks for GPUs that are not there.

`python tests/budgets.py` writes tests/budgets.json and docs/budgets.md; the test compares with it.
Named operators (`python tests/budgets.py combine`) are compiled again, the rest is kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from aot import TARGETS, compile_for
from networks import NETWORKS, PREDICTED, Router, shape
from recorder import Launched, combine_launches_of, launches_of

TABLE = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs/budgets.md"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAUNCHES = {"cross_connect": launches_of, "combine": combine_launches_of}
SHARED_BYTES = 49152  # static shared memory that every card grants


class Row(NamedTuple):
    """One kernel at one router, as it comes out of the compiler."""

    router: str
    dtype: str
    layout: str
    kernel: str
    num_warps: int
    target: str
    registers: int
    spilled: int
    shared: int
    wide_loads: int
    wide_stores: int


class Job(NamedTuple):
    """What a worker compiles: a forward and a backward."""

    operator: str
    router: Router
    dtype: str
    layout: str

    def __str__(self) -> str:
        return f"{self.operator} {shape(self.router)} {self.dtype} {self.layout}"

    def launches(self) -> list[Launched]:
        """At batch 128, with every gradient wanted."""
        last = self.layout == "channels_last"
        forward, backward = LAUNCHES[self.operator](
            self.router, DTYPES[self.dtype], channels_last=last
        )
        return [*forward, *backward]


def routers(operator: str) -> list[Router]:
    """The paper's routers, each once."""
    networks = PREDICTED if operator == "combine" else NETWORKS
    found = {(r.channels, r.spatial, r.inputs, r.outputs): r for n in networks.values() for r in n}
    return list(found.values())


def rows(job: Job, targets: list[str]) -> Iterator[Row]:
    """Every kernel of a forward and of a backward."""
    router, dtype, layout = job[1:]
    seen = set()
    for launch in job.launches():
        name = launch.kernel.__name__
        if name in seen:  # a further group of the same launches
            continue
        seen.add(name)
        for target in targets:
            code = compile_for(
                target, launch.kernel, launch.arguments, launch.constants, launch.options
            )
            assert code.atomics == 0, (name, router)
            yield Row(
                shape(router), dtype, layout, name.strip("_"), launch.options["num_warps"], target,
                code.registers, code.spilled_bytes, code.shared, code.wide_loads, code.wide_stores,
            )  # fmt: skip


def map_accesses(launch: Launched, target: str) -> tuple[int, int]:
    """16-byte loads and stores of a thread that the kernel's tiles of maps come to, at least."""
    lanes = 64 if TARGETS[target].backend == "hip" else 32
    sizes, name = launch.constants, launch.kernel.__name__  # type: ignore[attr-defined]
    m, n = sizes["INPUTS"], sizes.get("OUTPUTS", 0)
    bytes_of_threads = launch.options["num_warps"] * lanes * 16
    itemsize = launch.arguments[0][0].element_size()

    def wide(values: int) -> int:
        return values * itemsize // bytes_of_threads

    # Rows and columns of a kept tile beyond those of the map are padding, which may be left out.
    kept = wide(
        sizes.get("BLOCK_SAMPLES", 0) * sizes.get("CHANNELS", 0) * sizes.get("POSITIONS", 0)
    )
    walk = wide(sizes.get("BLOCK_WALK", 0))
    pool = wide(sizes.get("BLOCK_CHANNELS", 0) * sizes.get("BLOCK_POSITIONS", 0))
    tile = wide(sizes.get("BLOCK_ROWS", 0) * sizes.get("BLOCK_COLS", 0))
    return {
        "resident_kernel": (kept * m, kept * n),
        "resident_backward_kernel": (kept * (m + n), kept * m),
        "streamed_kernel": (pool * m + walk * m, walk * n),
        "streamed_backward_kernel": (walk * (m + 2 * n), walk * m),
        "split_pool_kernel": (pool * m, 0),
        "split_mix_kernel": (walk * m, walk * n),
        "split_dot_kernel": (walk * (m + n), 0),
        "split_grad_kernel": (walk * n, walk * m),
        "_combine_kernel": (tile * m, tile),
        "_combine_backward_kernel": (tile * (m + 1), tile * m),
        "_combine_sums_kernel": (0, 0),
    }[name]


def _job(job: Job) -> list[Row]:
    return list(rows(job, list(TARGETS)))


def jobs(*operators: str) -> list[Job]:
    """What the table covers: NCHW everywhere, channels_last for maps."""
    return [
        Job(operator, router, dtype, layout)
        for operator in operators or LAUNCHES
        for router in routers(operator)
        for dtype in DTYPES
        for layout in ("nchw", "channels_last")
        if router.spatial or layout == "nchw"
    ]


def operator_of(row: Row) -> str:
    """The operator that launches this kernel, by its name."""
    return "combine" if row.kernel.startswith("combine") else "cross_connect"


def write(operators: list[str]) -> int:
    """Writes both files; exit status 1 if anything spills."""
    kept = []
    if operators:
        kept = [Row(*row) for row in json.loads(TABLE.read_text())["rows"]]
    with ProcessPoolExecutor() as pool:
        made = [row for found in pool.map(_job, jobs(*operators)) for row in found]
    compiled = operators or list(LAUNCHES)
    table = [row for row in kept if operator_of(row) not in compiled] + made
    table.sort(key=lambda row: list(LAUNCHES).index(operator_of(row)))
    TABLE.write_text(
        json.dumps({"triton": triton.__version__, "columns": Row._fields, "rows": [
            list(row) for row in table
        ]}, separators=(",", ":")).replace("],[", "],\n[") + "\n"
    )  # fmt: skip
    PAGE.write_text(page(table))
    spilled = [row for row in made if row.spilled]
    print(f"{len(made)} kernels compiled, {len(spilled)} spill")
    for row in spilled:
        print(row)
    return 1 if spilled else 0


def page(table: list[Row]) -> str:
    """The table for readers: a line a kernel and router, registers on each target."""
    lines = [
        "# What the Triton kernels compile to",
        "",
        f"Compiled ahead of time by `python tests/budgets.py` with Triton {triton.__version__}, on",
        "a machine without a GPU, for every router of the paper's networks: cross_connect, then",
        "combine, whose routers are named by the maps of one output. Each target's column:",
        "registers a thread / bytes of shared memory / 16-byte loads + 16-byte stores.",
        f"Spilled bytes over all {len(table)} kernels: {sum(row.spilled for row in table)}.",
        "",
        "| router | dtype | layout | kernel | warps | " + " | ".join(TARGETS) + " |",
        "|---|---|---|---|---|" + "---|" * len(TARGETS),
    ]
    grouped: dict[tuple, dict[str, str]] = {}
    for row in table:
        text = f"{row.registers} / {row.shared} / {row.wide_loads}+{row.wide_stores}"
        text += f" **spills {row.spilled}**" if row.spilled else ""
        grouped.setdefault(row[:5], {})[row.target] = text
    for key, by_target in grouped.items():
        cells = [*map(str, key), *(by_target[target] for target in TARGETS)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(write(sys.argv[1:]))
