"""Part of the GPU report that times training steps of whole networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_kernels import captured, timed
from benchmarks.training import build, images, training_step

NETWORKS = ("basecnn_2_cc", "basecnn_3_cc")
BATCH = 128


def _contenders(name: str, bf16: bool) -> dict[str, Callable[[], Callable[[], object]]]:
    def plain(routers: str) -> Callable[[], object]:
        model = build(name, routers, "cuda")
        return training_step(model, model, *images(BATCH, "cuda"), bf16=bf16)

    def compiled(routers: str) -> Callable[[], object]:
        torch._dynamo.reset()
        model = build(name, routers, "cuda")
        run = torch.compile(model, dynamic=False)
        return training_step(model, run, *images(BATCH, "cuda"), bf16=bf16)

    return {
        "eager": lambda: plain("eager"),
        "fused": lambda: plain("fused"),
        "fused + graph": lambda: captured(plain("fused")),
        "eager + graph": lambda: captured(plain("eager")),
        "eager + compile": lambda: compiled("eager"),
        "fused + compile": lambda: compiled("fused"),
    }


def steps(report: dict[str, Any]) -> dict[str, Any]:
    """Microseconds a step, images a second and peak memory of every way to train."""
    rows = []
    for name in NETWORKS:
        for bf16 in (False, True):
            found, peaks = {}, {}
            for kind, make in _contenders(name, bf16).items():
                if bf16 and "compile" in kind and name != NETWORKS[0]:
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
                    "network": name, "dtype": "bf16 autocast" if bf16 else "fp32", "kind": kind,
                    **spread, "images_per_second": BATCH / spread["median"] * 1e6,
                    "peak_bytes": peaks[kind],
                })  # fmt: skip
    return {"rows": rows, "batch": BATCH}
