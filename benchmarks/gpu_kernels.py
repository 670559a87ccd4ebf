"""Parts of the GPU report that time routers: copy bandwidth, kernels, launches, torch.compile."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

import mpkernels as mpk
from benchmarks import baselines
from benchmarks.cases import Case
from benchmarks.measure import CudaClock, Spread, Step, contest, spread
from benchmarks.problem import Problem
from mpkernels.ops.layout import geometry_of
from mpkernels.triton.launch import card_of, cross_connect_launch

# batch, channels, spatial, inputs, outputs: small maps, a vector, and maps that exceed any L2.
SHAPES = [
    (128, 32, (16, 16), 2, 2), (128, 64, (8, 8), 2, 2), (128, 128, (8, 8), 2, 2),
    (128, 32, (16, 16), 3, 3), (128, 16, (32, 32), 2, 2), (128, 16, (32, 32), 3, 3),
    (128, 32, (), 2, 2), (2048, 64, (8, 8), 2, 2), (2048, 16, (32, 32), 2, 2),
    (64, 64, (56, 56), 2, 2), (64, 128, (28, 28), 2, 2), (128, 256, (14, 14), 2, 2),
    (128, 512, (7, 7), 2, 2),
]  # fmt: skip
COMPILED = [(128, 64, (8, 8), 2, 2), (64, 64, (56, 56), 2, 2)]
ROUNDS = 25
WARM_UP = 3


def copy_bandwidth(report: dict[str, Any]) -> dict[str, Any]:
    """Bytes read and written a second by torch's own copy, by size."""
    found = {}
    for mebibytes in (16, 64, 256, 1024):
        x = torch.empty(mebibytes << 18, device="cuda")
        y = torch.empty_like(x)
        times = timed({"copy": lambda y=y, x=x: y.copy_(x)}, cold=True)
        found[str(mebibytes)] = 2 * x.nbytes / times["copy"]["median"] * 1e-3
    return {"gigabytes_per_second": found, "best": max(found.values())}


def timed(steps: dict[str, Step], cold: bool, rounds: int = ROUNDS) -> dict[str, Spread]:
    """Microseconds by CUDA events, candidates in turns; cold: L2 is flushed before each."""
    times = contest(steps, rounds, CudaClock(cold))
    return {name: spread(values) for name, values in times.items()}


def captured(step: Step) -> Step:
    """The step as a CUDA graph; it runs `WARM_UP` times before."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _rates(problem: Problem, times: dict[str, Any], best: float | None) -> dict[str, Any]:
    for name, floor in zip(("fused forward", "fused backward"), problem.floor()):
        for kind in (name, f"{name} graph"):
            if kind in times:
                rate = floor / times[kind]["median"] * 1e-3
                times[kind]["gigabytes_per_second"] = rate
                times[kind]["share_of_copy"] = rate / best if best else None
    return times


def kernels(report: dict[str, Any]) -> dict[str, Any]:
    """Fused routers against eager loops and eager stacked, cold and warm L2, and as graphs."""
    best = report.get("copy", {}).get("best")
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        for dtype, name in (("fp32", "float32"), ("bf16", "bfloat16")):
            problem = Problem(Case(*shape, dtype=dtype), "cuda")
            row: dict[str, Any] = {"shape": shape, "dtype": name}
            router = mpk.CrossConnect(shape[1], shape[3], shape[4])
            row["method"] = mpk.explain(router, problem.plain, "cuda").method
            row["right"] = problem.is_right(baselines.fused)
            if row["right"]:
                steps = {f"fused {k}": s for k, s in _fused(problem).items()}
                if row["method"] in ("shared", "cluster"):
                    steps |= _two_passes(problem)
                for name, of in (("loops", baselines.loops), ("stacked", baselines.stacked)):
                    steps[f"{name} forward"] = problem.forward(of)
                    steps[f"{name} both"] = problem.both(of)
                row["cold"] = _rates(problem, timed(steps, cold=True), best)
                row["warm"] = _rates(problem, timed(steps, cold=False), best)
            rows.append(row)
    return {"rows": rows, "right": all(row["right"] for row in rows)}


def _fused(problem: Problem) -> dict[str, Step]:
    forward, backward = problem.forward(baselines.fused), problem.backward()
    return {
        "forward": forward,
        "backward": backward,
        "both": problem.both(baselines.fused),
        "forward graph": captured(forward),
        "backward graph": captured(backward),
    }


def _two_passes(problem: Problem) -> dict[str, Step]:
    """Triton's two passes over the samples that CUDA C++ keeps on chip, as graphs."""
    from mpkernels.triton.cross_connect import forced

    x, steps = problem.plain[0], {}
    sizes = (problem.inputs, problem.outputs, problem.fixed[0].shape[1], x.dtype.itemsize)
    card = card_of(x.device)._replace(chip=None)
    for name, step in (
        ("forward", problem.forward(baselines.fused)), ("backward", problem.backward())
    ):  # fmt: skip
        with forced(cross_connect_launch(geometry_of(x), *sizes, card, name == "backward")):
            steps[f"two-pass {name} graph"] = captured(step)
    return steps


def launches(report: dict[str, Any]) -> dict[str, Any]:
    """Kernels that the profiler sees in one forward and in one backward."""
    rows = []
    for shape in ((128, 3, (32, 32), 1, 2), *SHAPES[:3], (128, 32, (), 2, 2)):
        problem = Problem(Case(*shape), "cuda")
        for name, of in (("fused", baselines.fused), ("loops", baselines.loops)):
            counted = {"shape": shape, "contender": name}
            counted["forward"] = count_kernels(problem.forward(of))
            counted["backward"] = count_kernels(problem.both(of)) - counted["forward"]
            rows.append(counted)
    return {"rows": rows}


def count_kernels(step: Step) -> int:
    """Kernels that one run launches; copies and fills are not counted."""
    step()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        step()
        torch.cuda.synchronize()
    kinds = torch.autograd.DeviceType.CUDA
    return sum(
        event.device_type == kinds and not event.name.startswith(("Memcpy", "Memset"))
        for event in profile.events()
    )


def compiled(report: dict[str, Any]) -> dict[str, Any]:
    """torch.compile of the eager loops: default, max-autotune and with CUDA graphs."""
    rows, start = [], time.monotonic()
    for shape in COMPILED:
        for mode in ("default", "reduce-overhead", "max-autotune"):
            if time.monotonic() - start > 150:
                return {"rows": rows, "why": "the rest took too long and was left out"}
            torch._dynamo.reset()
            problem = Problem(Case(*shape), "cuda")
            router = torch.compile(baselines.loops, dynamic=False, mode=mode)
            rows.append({"shape": shape, "mode": mode, **_against(problem, router)})
    return {"rows": rows}


def _against(problem: Problem, router: Any) -> dict[str, Any]:
    def marked(*inputs: Any) -> list[Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        return router(*inputs)  # type: ignore[no-any-return]

    if not problem.is_right(lambda *inputs: [y.clone() for y in marked(*inputs)]):
        return {"right": False}
    steps = {
        "fused forward": problem.forward(baselines.fused),
        "compiled forward": problem.forward(marked),
        "fused both": problem.both(baselines.fused),
        "compiled both": problem.both(marked),
    }
    return {"right": True, "warm": timed(steps, cold=False), "cold": timed(steps, cold=True)}
