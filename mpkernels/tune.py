"""Times the launches that a router could take on this card, and remembers the fastest."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.availability import why_no_kernel
from mpkernels.functional import cross_connect
from mpkernels.ops.check import check_gate


def tune(router: eager.CrossConnect, xs: Tensor | Sequence[Tensor]) -> dict[str, float]:
    """Writes this card's fastest launches for such maps to a table that later calls read.

    Nothing needs it: without a table a written rule chooses. Another launch may add in another
    order, so results may change in their last bits.

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
    paths = eager.modules.as_paths(xs, router.inputs)
    w1, b1, w2, b2 = router.w1, router.b1, router.w2, router.b2
    check_gate("tune", paths, w1, b1, w2, b2)
    device = paths[0].device
    reason = why_no_kernel("triton", device.type) if device.type == "cuda" else "xs are not there"
    if reason:
        raise RuntimeError(f"tune: needs Triton and xs on a GPU, found {device}: {reason}")
    return _measure(paths, (w1, b1, w2, b2))


def _measure(xs: list[Tensor], parameters: tuple[Tensor | None, ...]) -> dict[str, float]:
    from mpkernels.triton import cross_connect as launcher
    from mpkernels.triton import tuned
    from mpkernels.triton.launch import card_of, cross_connect_launch
    from mpkernels.triton.maps import geometry_like

    device, geometry = xs[0].device, geometry_like(xs[0])
    w1, _, w2, _ = parameters
    assert w1 is not None and w2 is not None
    sizes = (len(xs), w2.shape[1], w1.shape[1], xs[0].dtype.itemsize)
    leaves = [x.detach().requires_grad_() for x in xs]
    ys, _ = cross_connect(leaves, *parameters)  # type: ignore[arg-type]
    grads = [torch.ones_like(y) for y in ys]

    def forward() -> None:
        with torch.no_grad():
            cross_connect(xs, *parameters)  # type: ignore[arg-type]

    def backward() -> None:
        torch.autograd.grad(ys, leaves, grads, retain_graph=True)

    shares, found = {}, {}
    for name, run in (("forward", forward), ("backward", backward)):
        card = card_of(device)
        ruled = cross_connect_launch(geometry, *sizes, card, name == "backward")
        tried = tuned.candidates(ruled, geometry, *sizes, card)

        def seconds(launch: Any, run: Callable[[], None] = run) -> float:
            with launcher.forced(launch):
                return _median(run)

        best, shares[name] = tuned.fastest(tried, seconds)
        found[tuned.key_of(geometry, *sizes, name == "backward")] = tuned.describe(best)
    tuned.write(device, found)
    return shares


def _median(run: Callable[[], None]) -> float:
    run()
    run()
    times: list[float] = []
    for _ in range(15):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)
