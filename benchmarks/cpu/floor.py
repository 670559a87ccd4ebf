"""What a kernel could reach: calls that move a router's bytes and compute nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Step
from benchmarks.workload import Workload, copy_step
from proof.where import ROOT

FLOORS = ("copy", "plain loop", "streaming loop", "two-pass loop")


@cache
def loops() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Both C++ loops, compiled for this processor at the first call; None without a compiler.

    The first takes reads, writes, and whether stores bypass the cache. The second takes what is
    read first, sample by sample, then reads and writes.
    """
    from torch.utils.cpp_extension import load

    # A folder per torch version: a build locks its folder, and a build of another version would
    # wait for that lock forever.
    version = "".join(c if c.isalnum() else "_" for c in torch.__version__)
    try:
        load(
            f"mpkernels_floor_{version}",
            [str(Path(__file__).with_name("floor.cpp"))],
            extra_cflags=[
                "-O3", "-std=c++20", "-march=native", "-DMPK_NAMESPACE=native",
                "-DTORCH_TARGET_VERSION=0x020b000000000000",
            ],
            extra_include_paths=[str(ROOT / "csrc")],
            is_python_module=False,
        )  # fmt: skip
    except (OSError, RuntimeError) as error:
        print(f"the plain loops are left out: {str(error).splitlines()[0]}", flush=True)
        return None
    library = torch.ops.mpkernels_floor
    return library.stream_floor, library.two_pass_floor


def copies(workload: Workload) -> dict[tuple[str, str], Step]:
    """Copies by torch's own `copy_` of half the floor's bytes, each read and written.

    By (name, part); they use as many threads as the contenders.
    """
    forward, backward = workload.floor()
    return {
        ("copy", part): copy_step(workload.plain[0], moved)
        for part, moved in (("forward", forward), ("forward+backward", forward + backward))
    }


def floors(workload: Workload) -> dict[tuple[str, str], Step]:
    """Copies and C++ loops over the floor's bytes, by (name, part).

    The loops take one sample after the other, with regular and with streaming stores; the two-pass
    loop first reads what the sample's gates, or their gradients, depend on. They are left out where
    they cannot be compiled.
    """
    steps = copies(workload)
    compiled = loops()
    if compiled is None:
        return steps
    stream, two_pass = compiled
    xs, grad_ys = workload.plain, workload.grads
    ys = [torch.empty_like(g) for g in grad_ys]
    grad_xs = [torch.empty_like(x) for x in xs]

    def loop(streaming: bool) -> tuple[Step, Step]:
        forward: Step = lambda: stream(xs, ys, streaming)  # noqa: E731
        return forward, lambda: (forward(), stream([*grad_ys, *xs], grad_xs, streaming))

    def again() -> tuple[Step, Step]:
        forward: Step = lambda: two_pass(xs, xs, ys)  # noqa: E731
        return forward, lambda: (forward(), two_pass([*grad_ys, *xs], grad_ys, grad_xs))

    named = {"plain loop": loop(False), "streaming loop": loop(True), "two-pass loop": again()}
    for name, (once, twice) in named.items():
        steps[name, "forward"], steps[name, "forward+backward"] = once, twice
    return steps
