"""Times the routers of basecnn_2_cc on this machine's CPU: `python -m benchmarks.routers`.

Contenders take turns in one process, round by round; the result is the median, with the 20th and
80th percentile. A contender whose numbers are wrong gets no time. Writes benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import mpkernels
from benchmarks.baselines import contenders, loops
from models.checkpoint import write_whole

RESULTS = Path(__file__).parent / "results"


class Problem(NamedTuple):
    """One router: its place, channels, spatial size, paths in and out."""

    name: str
    channels: int
    spatial: tuple[int, ...]
    inputs: int
    outputs: int = 2


PROBLEMS = [
    Problem("1: image", 3, (32, 32), 1),
    Problem("2: pool 1", 32, (16, 16), 2),
    Problem("3: pool 2", 64, (8, 8), 2),
    Problem("4: conv 6", 128, (8, 8), 2),
    Problem("5: dense 1", 32, (), 2),
]


def make(problem: Problem, batch: int, channels_last: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Paths and parameters."""
    m, n, c = problem.inputs, problem.outputs, problem.channels
    xs = [torch.randn(batch, c, *problem.spatial) for _ in range(m)]
    if channels_last and problem.spatial:
        xs = [x.contiguous(memory_format=torch.channels_last) for x in xs]
    shapes = ((m, 16, c), (m, 16), (m, n, 16), (m, n))
    parameters = [torch.randn(shape) / shape[-1] ** 0.5 for shape in shapes]
    return [x.requires_grad_() for x in xs], [p.requires_grad_() for p in parameters]


def is_right(
    router: Callable[..., list[Tensor]], xs: list[Tensor], parameters: list[Tensor]
) -> bool:
    """Whether outputs and gradients agree with float64 to float32's precision."""

    def run(function: Callable[..., list[Tensor]], dtype: torch.dtype) -> list[Tensor]:
        inputs = [x.detach().to(dtype).requires_grad_() for x in xs]
        weights = [p.detach().to(dtype).requires_grad_() for p in parameters]
        ys = function(inputs, *weights)
        loss = sum((y * (j + 1)).pow(2).sum() for j, y in enumerate(ys))
        return [*ys, *torch.autograd.grad(loss, [*inputs, *weights])]  # type: ignore[arg-type]

    pairs = zip(run(router, torch.float32), run(loops, torch.float64))
    # The longest sums have batch x positions terms; sqrt of that many roundings, with a margin.
    terms = xs[0].numel() / xs[0].shape[1]
    bound = 16 * terms**0.5 * 2**-24
    return all(
        (found - wanted).abs().max() <= bound * wanted.abs().max() for found, wanted in pairs
    )


def quantiles(times: list[float]) -> list[float]:
    """20th, 50th and 80th percentile in microseconds."""
    values = torch.tensor(times, dtype=torch.float64) * 1e6
    return [round(v, 2) for v in values.quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist()]


def measure(problem: Problem, batch: int, channels_last: bool, rounds: int) -> dict[str, Any]:
    """Quantiles of every contender, forward without gradients and forward with backward."""
    xs, parameters = make(problem, batch, channels_last)
    grads = [torch.randn_like(xs[0]) for _ in range(problem.outputs)]
    steps: dict[tuple[str, str], Callable[[], object]] = {}
    for name, router in contenders().items():

        def forward(router: Callable[..., list[Tensor]] = router) -> None:
            with torch.no_grad():
                router(xs, *parameters)

        def both(router: Callable[..., list[Tensor]] = router) -> None:
            torch.autograd.grad(router(xs, *parameters), [*xs, *parameters], grads)

        if is_right(router, xs, parameters):
            steps[name, "forward"], steps[name, "both"] = forward, both
    times: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for step in steps.values():
        for _ in range(3):
            step()
    for _ in range(rounds):
        for key, step in steps.items():
            begin = time.perf_counter()
            step()
            times[key].append(time.perf_counter() - begin)
    row: dict[str, Any] = {"router": problem.name, "channels_last": channels_last}
    for (name, part), values in times.items():
        row.setdefault(name, {})[part] = quantiles(values)
    return row


def processor() -> str:
    """The processor's name as the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str:
    """The commit, marked where the checkout has changes."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def main() -> int:
    """Measures and writes one JSON file."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.routers", description=__doc__)
    made.add_argument("--batch", type=int, default=128)
    made.add_argument("--rounds", type=int, default=41)
    made.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    made.add_argument("--out", type=Path, default=RESULTS / "cpu_routers.json")
    given = made.parse_args()
    rows = []
    for threads in dict.fromkeys(given.threads):
        torch.set_num_threads(threads)
        for channels_last in (False, True):
            for problem in PROBLEMS:
                row = measure(problem, given.batch, channels_last, given.rounds)
                rows.append({"threads": threads, **row})
                print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": "python -m benchmarks.routers " + " ".join(sys.argv[1:]),
        "processor": processor(),
        "instruction_set": torch.ops.mpkernels.instruction_set(""),
        "torch": torch.__version__,
        "mpkernels": mpkernels.__version__,
        "commit": commit(),
        "batch": given.batch,
        "dtype": "float32",
        "rounds": given.rounds,
        "unit": "microseconds: 20th, 50th, 80th percentile",
        "rows": rows,
    }
    write_whole(given.out, lambda to: to.write_text(json.dumps(result, indent=1) + "\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
