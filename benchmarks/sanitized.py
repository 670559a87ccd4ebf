"""Every Triton kernel once, on small maps, and CUDA C++ ones: what compute-sanitizer watches.

`python -m benchmarks.sanitized` fails unless every kernel ran, whatever the rule would choose.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch

import mpkernels as mpk
from mpkernels.functional import combine, gate, mix
from mpkernels.ops.layout import geometry_of
from mpkernels.ops.onchip import CLUSTERS, OnChip, chip_of
from mpkernels.triton import combine as combined
from mpkernels.triton import combine_sums as combined_sums
from mpkernels.triton import cross_connect as routed
from mpkernels.triton import gate as gated
from mpkernels.triton import mix as mixed
from mpkernels.triton import parameters as summed
from mpkernels.triton.launch import PARAMETER_SAMPLES, Walk, chunks_of

KERNELS = {
    (module, name)
    for module in (combined, combined_sums, routed, gated, mixed, summed)
    for name in vars(module)
    if name.endswith("_kernel")
}


class _Seen:
    """A kernel that notes that it was launched."""

    def __init__(self, name: str, kernel: object, seen: set[str]) -> None:
        self.name, self.kernel, self.seen = name, kernel, seen

    def __getitem__(self, grid: tuple[int, ...]) -> object:
        self.seen.add(self.name)
        return self.kernel[grid]  # type: ignore[index]


@contextlib.contextmanager
def launched() -> Iterator[set[str]]:
    """The names of the kernels that are launched meanwhile."""
    seen: set[str] = set()
    real = {(module, name): getattr(module, name) for module, name in KERNELS}
    for (module, name), kernel in real.items():
        setattr(module, name, _Seen(name, kernel, seen))
    try:
        yield seen
    finally:
        for (module, name), kernel in real.items():
            setattr(module, name, kernel)


def step(device: str, *shape: int, method: str | None = None) -> None:
    """Forward and backward of a router, by this method; with "streamed" of all operators."""
    last = method == "streamed"
    xs = [torch.randn(shape, device=device) for _ in range(2)]
    if last:
        xs = [x.contiguous(memory_format=torch.channels_last) for x in xs]
    xs = [x.requires_grad_() for x in xs]
    router = mpk.CrossConnect(shape[1], 2, 3).to(device)
    forced: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if method:
        chunks = chunks_of(geometry_of(xs[0]), router.hidden, 4, 6)
        forced = routed.forced(Walk(method, 2, chunks))  # fewer than there are samples
    with forced:
        ys = router(xs)
        torch.autograd.backward(ys, [torch.ones_like(y) for y in ys])
    if last:
        gates = gate(xs, router.w1, router.b1, router.w2, router.b2)
        by_channel = gates.unsqueeze(-1) * torch.randn(shape[1], device=device)
        for weights in (gates, by_channel):
            sum(y.sum() for y in mix(xs, weights)).backward(retain_graph=True)  # type: ignore[union-attr]
        one = shape[1] // 3
        bias, scale, shift = (
            torch.randn(s, device=device) for s in ((2, 3 * one), *[(3, one)] * 2)
        )
        leaves = [p.requires_grad_() for p in (bias, scale, shift)]
        ys = combine([x[:, : 3 * one] for x in xs], gates, leaves[0], True, *leaves[1:])
        torch.autograd.backward(ys, [torch.ones_like(y) for y in ys])


def on_chip(device: str) -> None:
    """Forward and backward by CUDA C++, in blocks and clusters, where the card has them."""
    chip = chip_of(torch.empty(0, device=device).device)
    for cluster in CLUSTERS[:4]:
        if chip is not None and cluster <= chip.cluster:
            with routed.forced(OnChip(cluster, 0)):
                step(device, 3, 13, 5, 7)
                step(device, 3, 24, 8, 8)


def run(device: str) -> None:
    """Launches every kernel; RuntimeError if one was not."""
    with launched() as seen, mpk.use_backend("triton"):
        step(device, 3, 13, 5, 7)
        step(device, PARAMETER_SAMPLES + 1, 4)
        for method in ("streamed", "split"):
            step(device, 3, 33, 16, 17, method=method)
        on_chip(device)
    missing = sorted({name for _, name in KERNELS} - seen)
    if missing:
        raise RuntimeError(f"not launched: {', '.join(missing)}")


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    torch.cuda.synchronize()
