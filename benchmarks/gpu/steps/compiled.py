"""GPU time of eager loops that torch.compile has compiled, as graphs on the same terms."""

from __future__ import annotations

from typing import Any

import torch
import torch._functorch.config

from benchmarks import baselines
from benchmarks.cases import Case
from benchmarks.gpu.steps import alone, routers
from benchmarks.gpu.steps.graphs import timed

CASES = {
    str(case): case
    for dtype in ("fp32", "bf16")
    for case in (
        Case(128, 64, (8, 8), 2, 2, dtype), Case(128, 32, (16, 16), 3, 3, dtype),
        Case(128, 128, (8, 8), 3, 3, dtype), Case(32, 64, (56, 56), 2, 2, dtype),
        Case(64, 16, (32, 32), 3, 3, dtype), Case(128, 32, (), 3, 3, dtype),
    )
}  # fmt: skip


def cases() -> list[str]:
    """Routers and dtypes."""
    return list(CASES)


def run(name: str) -> dict[str, Any]:
    """Compiles while other processes do, then has the card for itself."""
    # A backward that is timed alone runs again and again, so it must not overwrite what it reads.
    torch._functorch.config.donated_buffer = False
    router = torch.compile(baselines.loops, dynamic=False)
    contenders = {"fused": baselines.fused, "compile": router}
    with alone.compiling():
        problems = routers.rotated(CASES[name])
        verdicts = problems[0].verdicts(contenders)
        torch.cuda.synchronize()
    row = {"verdicts": verdicts, "right": verdicts["fused"] == "right"}
    with alone.timing():
        graphs = {
            f"{contender} {part}": routers.graph_of(problems, of, part)
            for contender, of in contenders.items()
            if verdicts[contender] == "right"
            for part in routers.PARTS
        }
        graphs |= routers.copies(problems)
        return row | {"calls": len(problems), "microseconds": timed(graphs, len(problems))}
