"""Training steps of networks compiled by torch.compile, as CUDA graphs like the uncompiled."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.steps import alone
from benchmarks.gpu.steps.graphs import captured
from benchmarks.gpu.steps.networks import BATCHES, ROUNDS, WARM_UP, trained
from benchmarks.measure import CudaClock, contest, spread
from benchmarks.training import build, images, training_step

CASES = {
    f"{name} {dtype} {kind}": (name, dtype == "bf16 autocast", kind)
    for dtype in ("fp32", "bf16 autocast")
    for name in BATCHES
    for kind in ("eager", "fused")
}


def cases() -> list[str]:
    """A network, a dtype, and the kind of its routers."""
    return list(CASES)


def run(case: str) -> dict[str, Any]:
    """Compiles while other processes do, then has the card for itself."""
    name, bf16, kind = CASES[case]
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
