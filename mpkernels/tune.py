"""Times the launches that a router could take on this card, and remembers the fastest."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.eager.functional import SOFTMAX
from mpkernels.eager.router import as_paths
from mpkernels.ops.backend import why_not
from mpkernels.ops.check import check_gate
from mpkernels.ops.flags import mask_of

Launch = Any  # a candidate of mpkernels.triton.tuned
ROUNDS = 11  # in which every launch is timed once


def tune(router: eager.CrossConnect, xs: Tensor | Sequence[Tensor]) -> dict[str, float]:
    """Writes this card's fastest launches for such maps to a table that later calls read.

    Optional: without a table a built-in rule picks the launch, and it stays in force where nothing
    is clearly faster. Another launch may add in another order, so results may change in their last
    bits. An entry serves every batch for which the rule takes the same method, so that a sample's
    result stays independent of its batch: tune with the batch that you run. CUDA C++ is tried too,
    where it keeps a sample in shared memory; in place of two passes it serves every batch, until
    the same maps are tuned again and something else is faster.

    Args:
        router: a CrossConnect.
        xs: m maps on the GPU, of the shapes, dtype and format to tune for.

    Returns:
        For "forward" and "backward" the time of the chosen launch over that of the rule's.

    Raises:
        TypeError, ValueError: as the router would.
        RuntimeError: xs are not on a GPU, or Triton cannot run there.

    Example:
        >>> if torch.cuda.is_available():
        ...     router = CrossConnect(32, inputs=2, outputs=2).cuda()
        ...     tune(router, [torch.randn(128, 32, 16, 16, device="cuda") for _ in range(2)])
    """
    paths = as_paths(xs, router)
    gate = router.w1, router.b1, router.w2, router.b2
    check_gate("tune", paths, gate, SOFTMAX)
    device = paths[0].device
    reason = (
        why_not("cross_connect", "triton", device.type)
        if device.type == "cuda"
        else "xs are not there"
    )
    if reason:
        raise RuntimeError(f"tune: needs Triton and xs on a GPU, found {device}: {reason}")
    return _measure(paths, gate)


def _measure(xs: list[Tensor], gate: tuple[Tensor | None, ...]) -> dict[str, float]:
    from mpkernels.triton import cross_connect as launcher
    from mpkernels.triton import tuned
    from mpkernels.triton.launch import card_of, cross_connect_launch, on_device_of
    from mpkernels.triton.launch_arguments import geometry_like

    x, geometry = xs[0], geometry_like(xs[0])
    w1, _, w2, _ = gate
    assert w1 is not None and w2 is not None
    sizes = (len(xs), w2.shape[1], w1.shape[1], x.dtype.itemsize)
    wanted = mask_of((*(True for _ in xs), *(p is not None for p in gate)))
    shares: dict[str, float] = {}
    entries: dict[str, list[object] | None] = {}
    with torch.no_grad(), on_device_of(x):
        *ys, gates, pooled = launcher.cross_connect(xs, gate, SOFTMAX)
        back = ([*ys, None], [gates, pooled], xs, gate, SOFTMAX, wanted)
        for name, launched, arguments in (
            ("forward", launcher.cross_connect, (xs, gate, SOFTMAX)),
            ("backward", launcher.cross_connect_backward, back),
        ):
            card, backward = card_of(x.device), name == "backward"
            ruled = cross_connect_launch(geometry, *sizes, card, backward)

            def run(launch: Launch, launched: Any = launched, arguments: Any = arguments) -> None:
                with launcher.forced(launch):
                    launched(*arguments)

            tried = list(tuned.candidates(ruled, geometry, *sizes, card, backward))
            best, shares[name] = tuned.fastest(_milliseconds(tried, run))
            entries |= tuned.entries(best, ruled, geometry, *sizes, backward)
    tuned.write(x.device, entries)
    return shares


def _milliseconds(launches: list[Launch], run: Callable[[Launch], None]) -> dict[Launch, float]:
    """Median times on the current GPU: in turns, so that its clocks favour none.

    Each is captured several times in one graph, since Python would take longer than the kernels.
    """
    pool, graphs = torch.cuda.graph_pool_handle(), []
    for launch in launches:
        run(launch)  # compiles
        repeats = max(1, int(1 / max(0.05, _elapsed(partial(run, launch)))))  # 20 or 1 ms
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            for _ in range(repeats):
                run(launch)
        graphs.append((graph, repeats))
    rounds = [[_elapsed(graph.replay) / n for graph, n in graphs] for _ in range(ROUNDS + 1)]
    return {launch: statistics.median(times) for launch, *times in zip(launches, *rounds[1:])}


def _elapsed(run: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
