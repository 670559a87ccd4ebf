"""Training steps of whole networks: eager and fused routers, launched singly and as a graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.gpu.steps.graphs import captured
from benchmarks.measure import CudaClock, Step, contest, spread
from benchmarks.training import build, images, is_right, training_step
from models.networks import layers

# Each network's batch is that of its recipe in the paper.
BATCHES = {"basecnn_3_cc": 128, "resnet20_3_cc": 64}
WARM_UP, ROUNDS = 3, 11
STEPS = 8  # before weights are compared
# Far above what another order of sums does in eight steps, far below what a missing step does.
APART = 1e-3
CASES = {
    f"{name} {dtype} {layout}": (name, dtype == "bf16 autocast", layout == "channels_last")
    for layout in ("NCHW", "channels_last")
    for name in BATCHES
    for dtype in ("fp32", "bf16 autocast")
}


def cases() -> list[str]:
    """A network, a dtype and a layout."""
    return list(CASES)


def trained(name: str, routers: str, bf16: bool, last: bool) -> tuple[nn.Module, Step]:
    """A network and its training step."""
    model = build(name, routers, "cuda", last)
    return model, training_step(model, model, *images(BATCHES[name], "cuda"), bf16=bf16)


@contextlib.contextmanager
def _set(backend: Any, **flags: bool) -> Iterator[None]:
    """Flags of a backend of torch, until the end."""
    before = {name: getattr(backend, name) for name in flags}
    try:
        for name, value in flags.items():
            setattr(backend, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(backend, name, value)


def _trained_weights(name: str, bf16: bool, last: bool, graphed: bool) -> tuple[Tensor, Tensor]:
    """Weights before and after `STEPS` steps."""
    model, step = trained(name, "fused", bf16, last)

    def weights() -> Tensor:
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    begin = weights()
    run = captured([step], WARM_UP) if graphed else step
    for _ in range(STEPS - WARM_UP * graphed):
        run()
    return begin, weights()


def graph_apart(name: str, bf16: bool, last: bool) -> tuple[float, float]:
    """Distances of trained weights, over how far they moved.

    The first is between training with a graph and without, the second between two trainings
    without: what the network's other layers do by themselves.
    """
    with _set(torch.backends.cudnn, deterministic=True):
        begin, plain = _trained_weights(name, bf16, last, False)
        again, replayed = (_trained_weights(name, bf16, last, g)[1] for g in (False, True))
    moved = (plain - begin).norm()
    return float((replayed - plain).norm() / moved), float((again - plain).norm() / moved)


def _is_right(name: str, last: bool) -> bool:
    """Whether loss and gradients are as near to float64 as those of the eager network."""
    x, y = images(BATCHES[name], "cuda")
    eager, fused = (build(name, routers, "cuda", last) for routers in ("eager", "fused"))
    with _set(torch.backends.cudnn, allow_tf32=False):
        return is_right(fused, fused, eager, x, y)


def run(case: str) -> dict[str, Any]:
    """Microseconds per step, and peak memory, of each way to train."""
    name, bf16, last = CASES[case]
    steps, peaks = {}, {}
    for routers in ("eager", "fused"):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _, step = trained(name, routers, bf16, last)
        step()
        torch.cuda.synchronize()
        peaks[routers] = torch.cuda.max_memory_allocated() - before
        steps[routers] = step
        _, graphed = trained(name, routers, bf16, last)
        steps[f"{routers} graph"] = captured([graphed], WARM_UP)
    with patch.object(layers, "streams_beside", return_value=[]):
        _, graphed = trained(name, "fused", bf16, last)
        steps["fused graph in turn"] = captured([graphed], WARM_UP)
    times = contest(steps, ROUNDS, CudaClock())
    (apart, again), right = graph_apart(name, bf16, last), _is_right(name, last)
    wrong = [] if right else ["loss and gradients are not like float64"]
    wrong += [f"a graph leaves weights {apart:.1e} apart"] if apart > APART else []
    return {
        "batch": BATCHES[name],
        "microseconds": {way: spread(values) for way, values in times.items()},
        "peak_bytes": peaks,
        "graph_apart": apart,
        "plain_apart": again,
        "right": not wrong,
        "wrong": "; ".join(wrong),
    }
