"""One router's tensors, its calls by each contender, and the calls that bound them from below."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks import baselines
from benchmarks.cases import DTYPES, Case
from benchmarks.correct import is_near, slack
from benchmarks.cpu.floor import loops
from benchmarks.measure import Step

HIDDEN = 16


def map_like(case: Case, device: str = "cpu") -> Tensor:
    """A random map in the case's dtype and memory format."""
    x = torch.randn(case.batch, case.channels, *case.spatial, device=device)
    x = x.to(DTYPES[case.dtype])
    last = case.layout == "channels_last"
    return x.contiguous(memory_format=torch.channels_last) if last else x


def parameters(case: Case) -> tuple[Tensor, ...]:
    """w1, b1, w2, b2, with hidden units clearly on or off and no gate near 0 or 1.

    Where rounding decides whether a ReLU is on, gradients of right contenders differ.
    """
    m, n, c = case.inputs, case.outputs, case.channels
    w1 = torch.randn(m, HIDDEN, c) / (2 * c**0.5)
    b1 = 4 * torch.randn(m, HIDDEN).sign()
    return w1, b1, torch.randn(m, n, HIDDEN) / HIDDEN, torch.randn(m, n) / 4


class Problem:
    """Inputs, parameters and the outputs' gradients.

    Parameters have the maps' dtype, or the one that is named: with autocast they stay float32.
    """

    def __init__(
        self, case: Case, device: str = "cpu", parameter_dtype: torch.dtype | None = None
    ) -> None:
        m, n = case.inputs, case.outputs
        self.case, self.inputs, self.outputs = case, m, n
        self.xs = [map_like(case, device).requires_grad_() for _ in range(m)]
        narrow = parameter_dtype or DTYPES[case.dtype]
        self.parameters = [p.to(device, narrow).requires_grad_() for p in parameters(case)]
        self.grads = [map_like(case, device) for _ in range(n)]
        self.plain = [x.detach() for x in self.xs]
        self.fixed = [p.detach() for p in self.parameters]

    def forward(self, router: baselines.Router) -> Step:
        """Without autograd."""

        def step() -> object:
            with torch.no_grad():
                return router(self.plain, *self.fixed)

        return step

    def forward_with_grad(self, router: baselines.Router) -> Step:
        """The forward of a training step."""
        return lambda: router(self.xs, *self.parameters)

    def both(self, router: baselines.Router) -> Step:
        """Forward and backward of every gradient."""
        return lambda: torch.autograd.grad(
            router(self.xs, *self.parameters), [*self.xs, *self.parameters], self.grads
        )

    def backward_of(self, router: baselines.Router) -> Step:
        """The backward of a router by autograd, every gradient, from one forward that is kept."""
        ys = router(self.xs, *self.parameters)
        return lambda: torch.autograd.grad(
            ys, [*self.xs, *self.parameters], self.grads, retain_graph=True
        )

    def operator_forward(self) -> Step:
        """The fused operator alone, without autograd and without the function's checks."""

        def step() -> object:
            with torch.no_grad():
                return torch.ops.mpkernels.cross_connect(self.plain, *self.fixed)

        return step

    def backward(self) -> Step:
        """The fused backward operator alone."""
        w1, b1, w2, b2 = self.fixed
        _, gates, pooled = torch.ops.mpkernels.cross_connect(self.plain, w1, b1, w2, b2)
        return lambda: self._backward(gates, pooled)

    def _backward(self, gates: Tensor, pooled: Tensor) -> object:
        w1, b1, w2, b2 = self.fixed
        return torch.ops.mpkernels.cross_connect_backward(
            self.grads, None, self.plain, gates, pooled, w1, b1, w2, b2, [True] * (self.inputs + 4)
        )

    def operator_both(self) -> Step:
        """Both operators, one after the other."""

        def step() -> object:
            with torch.no_grad():
                result = torch.ops.mpkernels.cross_connect(self.plain, *self.fixed)
                return result, self._backward(result[1], result[2])

        return step

    def verdicts(self, routers: dict[str, baselines.Router]) -> dict[str, str]:
        """Of each router "right", "wrong", or "failed" where it raises an error."""
        wide = [t.detach().double().requires_grad_() for t in (*self.xs, *self.parameters)]
        grads = [g.double() for g in self.grads]
        exact = _results(baselines.loops, wide[: self.inputs], wide[self.inputs :], grads)
        plain = _results(baselines.loops, self.xs, self.parameters, self.grads)
        terms = math.prod((self.case.channels, *self.case.spatial))
        most = slack(DTYPES[self.case.dtype], terms)
        found = {}
        for name, router in routers.items():
            try:
                results = _results(router, self.xs, self.parameters, self.grads)
                right = is_near(results, exact, plain, most)
                with torch.no_grad():  # compilers make another program of it
                    right &= is_near(router(self.plain, *self.fixed), exact, plain, most)
            except RuntimeError as error:
                print(f"{self.case}: {name} failed: {error}", flush=True)
                found[name] = "failed"
                continue
            found[name] = "right" if right else "wrong"
        return found

    def is_right(self, router: baselines.Router) -> bool:
        """Whether outputs and gradients are about as near to float64 as those of eager loops."""
        return self.verdicts({"router": router})["router"] == "right"

    def floor(self) -> tuple[int, int]:
        """Bytes of a forward and of a backward with everything read and written once."""
        one, m, n = self.xs[0].nbytes, self.inputs, self.outputs
        return (m + n) * one, (2 * m + n) * one


def _results(
    router: baselines.Router, xs: list[Tensor], parameters: list[Tensor], grads: list[Tensor]
) -> list[Tensor]:
    """Outputs, then gradients."""
    ys = router(xs, *parameters)
    return [y.detach() for y in ys] + list(torch.autograd.grad(ys, [*xs, *parameters], grads))


def floors(problem: Problem) -> dict[tuple[str, str], Step]:
    """Calls that move the bytes of the floor and do nothing else, by (name, part).

    "copy" is torch's own `copy_` of half as many bytes, read and written, with the threads that the
    contenders have. The loops are C++, one sample after the other, with regular and with streaming
    stores; the two-pass loop first reads what the sample's gates, or their gradients, depend on.
    They are left out where they cannot be compiled.
    """
    forward, backward = problem.floor()
    steps: dict[tuple[str, str], Step] = {}
    for part, moved in (("forward", forward), ("forward+backward", forward + backward)):
        steps["copy", part] = copy_step(problem.plain[0], moved)
    made = loops()
    if made is None:
        return steps
    stream, two_pass = made
    ys = [torch.empty_like(g) for g in problem.grads]
    grad_xs = [torch.empty_like(x) for x in problem.plain]
    xs, grad_ys = problem.plain, problem.grads

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


def copy_step(like: Tensor, moved: int) -> Step:
    """A copy that reads and writes so many bytes in all, in the dtype of `like`."""
    source = like.detach().new_ones(math.ceil(moved / 2 / like.element_size()))
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
