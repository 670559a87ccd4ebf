"""What Nsight Compute counts per launch: bytes of memory, hits in L2, active warps.

`python -m benchmarks.gpu.steps.counters CASE` makes the launches that ncu watches.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from typing import Any

from benchmarks import baselines
from benchmarks.cases import Case
from benchmarks.problem import Problem
from proof.where import ROOT

METRICS = {
    "gpu__time_duration.sum": "microseconds",
    "dram__bytes_read.sum": "bytes_read",
    "dram__bytes_write.sum": "bytes_written",
    "lts__t_sector_hit_rate.pct": "l2_hit_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps_active_percent",
    "launch__registers_per_thread": "registers",
}
KERNELS = "regex:resident|streamed|split|cross_connect|gradients|gate_weights"
CASES = {
    str(case): case
    for case in (
        Case(128, 64, (8, 8), 2, 2), Case(128, 32, (16, 16), 3, 3),
        Case(32, 64, (56, 56), 2, 2), Case(32, 64, (56, 56), 2, 2, "bf16"),
    )
}  # fmt: skip


def cases() -> list[str]:
    """Routers, each with a forward and a backward."""
    return list(CASES)


def run(name: str) -> dict[str, Any]:
    """Counts per kernel, in the order of the launches; caches are flushed before each."""
    if shutil.which("ncu") is None:
        raise RuntimeError("ncu is not installed")
    process = subprocess.run(
        ["ncu", "--csv", "--print-units", "base", "--kernel-name", KERNELS,
         "--metrics", ",".join(METRICS),
         sys.executable, "-m", "benchmarks.gpu.steps.counters", name],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    lines = [line for line in process.stdout.splitlines() if line.startswith('"')]
    kernels: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(lines):
        metric = METRICS.get(row["Metric Name"])
        if metric is not None:
            kernel = kernels.setdefault(row["ID"], {"kernel": row["Kernel Name"][:60]})
            value = float(row["Metric Value"].replace(",", ""))
            kernel[metric] = value / 1e3 if metric == "microseconds" else value
    if not kernels:
        raise RuntimeError(f"ncu saw no kernel: {(process.stdout + process.stderr)[-800:]}")
    problem = Problem(CASES[name]._replace(batch=1))
    one = [bytes * CASES[name].batch for bytes in problem.floor()]
    return {"floor_bytes": one, "kernels": list(kernels.values())}


if __name__ == "__main__":
    problem = Problem(CASES[sys.argv[1]], "cuda")
    problem.both(baselines.fused)()
