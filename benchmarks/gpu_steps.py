"""Part of the GPU report that times training steps of whole networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import models
from benchmarks.gpu_kernels import captured, timed

NETWORKS = ("basecnn_2_cc", "basecnn_3_cc")
BATCH = 128


def training_step(
    model: nn.Module, run: Callable[..., Any], bf16: bool, batch: int = BATCH, device: str = "cuda"
) -> Callable[[], object]:
    """Forward, backward and SGD on one fixed batch; gradients stay allocated, as graphs need."""
    x = torch.randn(batch, 3, 32, 32, device=device)
    y = torch.randint(10, (batch,), device=device)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> object:
        optimiser.zero_grad(set_to_none=False)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            loss = cross_entropy(run(x), y)
        loss.backward()
        optimiser.step()
        return loss

    return step


def build(name: str, routers: str, device: str = "cuda") -> nn.Module:
    """The network in training mode, always with the same weights."""
    torch.manual_seed(0)
    return models.create(name, classes=10, routers=routers).to(device).train()


def _contenders(name: str, bf16: bool) -> dict[str, Callable[[], Callable[[], object]]]:
    def plain(routers: str) -> Callable[[], object]:
        model = build(name, routers)
        return training_step(model, model, bf16)

    def compiled(routers: str) -> Callable[[], object]:
        torch._dynamo.reset()
        model = build(name, routers)
        return training_step(model, torch.compile(model, dynamic=False), bf16)

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
