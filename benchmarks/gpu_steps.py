"""Part of the GPU report that times training steps of whole networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import parameters_to_vector

from benchmarks.gpu_kernels import WARM_UP, captured, timed
from benchmarks.training import build, images, training_step

# With the batch of the paper's recipes.
NETWORKS = {"basecnn_2_cc": 128, "resnet20_3_cc": 64}


def _contenders(name: str, batch: int, bf16: bool) -> dict[str, Callable[[], Callable[[], object]]]:
    def plain(routers: str) -> Callable[[], object]:
        model = build(name, routers, "cuda")
        return training_step(model, model, *images(batch, "cuda"), bf16=bf16)

    def compiled(routers: str) -> Callable[[], object]:
        torch._dynamo.reset()
        model = build(name, routers, "cuda")
        run = torch.compile(model, dynamic=False)
        return training_step(model, run, *images(batch, "cuda"), bf16=bf16)

    return {
        "eager": lambda: plain("eager"),
        "fused": lambda: plain("fused"),
        "fused + graph": lambda: captured(plain("fused")),
        "eager + graph": lambda: captured(plain("eager")),
        "eager + compile": lambda: compiled("eager"),
        "fused + compile": lambda: compiled("fused"),
    }


def graph_apart(name: str, batch: int, count: int = 8) -> float:
    """How far weights end apart, trained by a graph and without, over how far they moved.

    Zero but for convolutions' backward, which may add in an order of its own.
    """
    ends = []
    for graphed in (False, True):
        model = build(name, "fused", "cuda")
        begin = parameters_to_vector(model.parameters()).detach()
        step = training_step(model, model, *images(batch, "cuda"))
        run = captured(step) if graphed else step
        for _ in range(count - WARM_UP * graphed):
            run()
        ends.append(parameters_to_vector(model.parameters()).detach())
    plain, replayed = ends
    return float((replayed - plain).norm() / (plain - begin).norm())


def steps(report: dict[str, Any]) -> dict[str, Any]:
    """Microseconds a step, images a second and peak memory of every way to train."""
    apart = {name: graph_apart(name, batch) for name, batch in NETWORKS.items()}
    rows = []
    for name, batch in NETWORKS.items():
        for bf16 in (False, True):
            found, peaks = {}, {}
            for kind, make in _contenders(name, batch, bf16).items():
                if bf16 and "compile" in kind and name != "basecnn_2_cc":
                    continue  # a compilation takes most of a minute
                torch.cuda.empty_cache()
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
                found[kind] = make()
                found[kind]()
                torch.cuda.synchronize()
                peaks[kind] = torch.cuda.max_memory_allocated() - before
            for kind, spread in timed(found, cold=False).items():
                rows.append({
                    "network": name, "batch": batch, "kind": kind,
                    "dtype": "bf16 autocast" if bf16 else "fp32", **spread,
                    "images_per_second": batch / spread["median"] * 1e6, "peak_bytes": peaks[kind],
                })  # fmt: skip
    # Far beyond what another order of sums does to eight steps, far below a step left out.
    right = all(value <= 1e-3 for value in apart.values())
    return {"rows": rows, "graph_apart": apart, "right": right}
