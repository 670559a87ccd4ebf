"""What torch.compile makes of eager loops and of networks, as CUDA graphs on the same terms."""

from __future__ import annotations

from typing import Any

import torch
import torch._functorch.config

from benchmarks import baselines
from benchmarks.cases import Case
from benchmarks.gpu import alone, routers
from benchmarks.gpu.graphs import captured, timed
from benchmarks.gpu.networks import BATCHES, ROUNDS, WARM_UP, trained
from benchmarks.measure import CudaClock, contest, spread
from benchmarks.training import build, images, training_step

ROUTERS = {
    str(case): case
    for dtype in ("fp32", "bf16")
    for case in (
        Case(128, 64, (8, 8), 2, 2, dtype), Case(128, 32, (16, 16), 3, 3, dtype),
        Case(128, 128, (8, 8), 3, 3, dtype), Case(32, 64, (56, 56), 2, 2, dtype),
        Case(64, 16, (32, 32), 3, 3, dtype), Case(128, 32, (), 3, 3, dtype),
    )
}  # fmt: skip
NETWORKS = {
    f"{name} {dtype} {kind}": (name, dtype == "bf16 autocast", kind)
    for dtype in ("fp32", "bf16 autocast")
    for name in BATCHES
    for kind in ("eager", "fused")
}


def cases() -> list[str]:
    """Training steps of networks, and routers; compilation takes most of a minute."""
    return [*NETWORKS, *ROUTERS]


def run(name: str) -> dict[str, Any]:
    """Compiles beside other processes, then has the card for itself."""
    return _network(*NETWORKS[name]) if name in NETWORKS else _router(ROUTERS[name])


def _router(case: Case) -> dict[str, Any]:
    # A backward that is timed alone runs again and again, so it may not reuse what it reads.
    torch._functorch.config.donated_buffer = False
    router = torch.compile(baselines.loops, dynamic=False)
    contenders = {"fused": baselines.fused, "compile": router}
    with alone.compiling():
        problems = routers.rotated(case)
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


def _network(name: str, bf16: bool, kind: str) -> dict[str, Any]:
    """The compiled step as a graph, beside the same step uncompiled as a graph."""
    with alone.compiling():
        model = build(name, kind, "cuda")
        model.compile(dynamic=False)
        step = training_step(model, model, *images(BATCHES[name], "cuda"), bf16=bf16)
        step()
        torch.cuda.synchronize()
    with alone.timing():
        _, plain = trained(name, kind, bf16, False)
        steps = {
            f"{kind} graph": captured([plain], WARM_UP),
            f"{kind} compile graph": captured([step], WARM_UP),
        }
        times = contest(steps, ROUNDS, CudaClock())
    return {"microseconds": {way: spread(values) for way, values in times.items()}}
