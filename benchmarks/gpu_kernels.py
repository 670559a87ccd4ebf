"""Parts of the GPU report that time routers: copy bandwidth, kernels, launches, torch.compile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mpkernels as mpk
from benchmarks import baselines

Step = Callable[[], object]
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


def copy_bandwidth(report: dict[str, Any]) -> dict[str, Any]:
    """Bytes read and written a second by torch's own copy, by size."""
    found = {}
    for mebibytes in (16, 64, 256, 1024):
        x = torch.empty(mebibytes << 18, device="cuda")
        y = torch.empty_like(x)
        times = timed({"copy": lambda y=y, x=x: y.copy_(x)}, cold=True)
        found[str(mebibytes)] = 2 * x.nbytes / times["copy"]["median"] * 1e-3
    return {"gigabytes_per_second": found, "best": max(found.values())}


def timed(steps: dict[str, Step], cold: bool, rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Microseconds by CUDA events, candidates in turns; cold: L2 is flushed before each."""
    flush = torch.empty(64 << 20, device="cuda")  # 256 MiB, more than any L2
    for step in steps.values():
        step(), step(), step()
    events: dict[str, list[tuple[Any, Any]]] = {name: [] for name in steps}
    for at in range(rounds):
        for name in list(steps)[:: -1 if at % 2 else 1]:
            if cold:
                flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            steps[name]()
            end.record()
            events[name].append((start, end))
        torch.cuda.synchronize()
    return {name: _spread([1e3 * a.elapsed_time(b) for a, b in e]) for name, e in events.items()}


def _spread(values: list[float]) -> dict[str, float]:
    low, *_, high = statistics.quantiles(values, n=5)
    return {"median": statistics.median(values), "low": low, "high": high}


def captured(step: Step) -> Step:
    """The step as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class Problem:
    """One router's tensors, and its step by each contender."""

    def __init__(self, shape: tuple[Any, ...], dtype: torch.dtype, device: str = "cuda") -> None:
        batch, channels, spatial, self.inputs, self.outputs = shape
        m, n = self.inputs, self.outputs
        self.xs = [
            torch.randn(batch, channels, *spatial, device=device).to(dtype).requires_grad_()
            for _ in range(m)
        ]
        sizes = ((m, 16, channels), (m, 16), (m, n, 16), (m, n))
        self.parameters = [
            (torch.randn(s, device=device) / s[-1] ** 0.5).to(dtype).requires_grad_() for s in sizes
        ]
        self.grads = [torch.randn_like(self.xs[0]) for _ in range(n)]
        self.plain = [x.detach() for x in self.xs]
        self.fixed = [p.detach() for p in self.parameters]

    def forward(self, router: baselines.Router) -> Step:
        """Without autograd."""

        def step() -> object:
            with torch.no_grad():
                return router(self.plain, *self.fixed)

        return step

    def both(self, router: baselines.Router) -> Step:
        """Forward and backward of every gradient."""
        return lambda: torch.autograd.grad(
            router(self.xs, *self.parameters), [*self.xs, *self.parameters], self.grads
        )

    def backward(self) -> Step:
        """The fused backward's launches alone, without autograd's."""
        m = self.inputs
        with torch.no_grad():
            w1, b1, w2, b2 = self.fixed
            op = torch.ops.mpkernels
            _, gates, pooled = op.cross_connect(self.plain, w1, b1, w2, b2)
            wanted = [True] * (m + 4)
            return lambda: op.cross_connect_backward(
                self.grads, None, self.plain, gates, pooled, w1, b1, w2, b2, wanted
            )

    def is_right(self, router: baselines.Router) -> bool:
        """Whether outputs and gradients are as near to float64 as 4 times those of eager loops.

        The derived bounds are the tests'; this keeps a broken contender from getting a time.
        """
        inputs = [t.detach().double().requires_grad_() for t in (*self.xs, *self.parameters)]
        m = self.inputs
        exact_ys = baselines.loops(inputs[:m], *inputs[m:])
        exact = [
            *(y.detach() for y in exact_ys),
            *torch.autograd.grad(exact_ys, inputs, [g.double() for g in self.grads]),
        ]

        def errors(of: baselines.Router) -> list[float]:
            ys = of(self.xs, *self.parameters)
            found = [
                *(y.detach() for y in ys),
                *torch.autograd.grad(ys, [*self.xs, *self.parameters], self.grads),
            ]
            return [
                float((f.double() - e).abs().max() / e.abs().max()) for f, e in zip(found, exact)
            ]

        eps = torch.finfo(self.xs[0].dtype).eps
        return all(a <= 4 * b + 8 * eps for a, b in zip(errors(router), errors(baselines.loops)))

    def floor(self) -> tuple[int, int]:
        """Bytes of a forward and of a backward with everything read and written once."""
        one, m, n = self.xs[0].nbytes, self.inputs, self.outputs
        return (m + n) * one, (2 * m + n) * one


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
        for dtype in (torch.float32, torch.bfloat16):
            problem = Problem(shape, dtype)
            row: dict[str, Any] = {"shape": shape, "dtype": str(dtype).removeprefix("torch.")}
            router = mpk.CrossConnect(shape[1], shape[3], shape[4])
            row["method"] = mpk.explain(router, problem.plain, "cuda").method
            row["right"] = problem.is_right(baselines.fused)
            if row["right"]:
                steps = {f"fused {k}": s for k, s in _fused(problem).items()}
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


def launches(report: dict[str, Any]) -> dict[str, Any]:
    """Kernels that the profiler sees in one forward and in one backward."""
    rows = []
    for shape in ((128, 3, (32, 32), 1, 2), *SHAPES[:3], (128, 32, (), 2, 2)):
        problem = Problem(shape, torch.float32)
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
    with torch.profiler.profile(activities=activities) as profile:
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
            problem = Problem(shape, torch.float32)
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
