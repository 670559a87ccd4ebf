"""An operator's tensors, and its calls by each contender."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.cases import DTYPES, Case
from benchmarks.measure import Step
from mpkernels.nearness import is_near, slack

Operator = Callable[..., list[Tensor]]


def map_like(case: Case, device: str = "cpu") -> Tensor:
    """A random map in the case's dtype and memory format."""
    x = torch.randn(case.batch, case.channels, *case.spatial, device=device)
    return in_layout(x.to(DTYPES[case.dtype]), case)


def in_layout(x: Tensor, case: Case) -> Tensor:
    """The map in the case's memory format."""
    last = case.layout == "channels_last"
    return x.contiguous(memory_format=torch.channels_last) if last else x


class Workload:
    """Inputs, parameters and the outputs' gradients of one operator.

    A contender is called as `contender(xs, *parameters)` and returns the outputs.

    Args:
        case: names the workload; its dtype and the size of its maps say how exact a result must be.
        xs: maps, each with a gradient.
        parameters: the other arguments, each with a gradient.
        grads: gradients of the outputs.
        definition: the operator in plain PyTorch, to which contenders are compared.
    """

    def __init__(
        self,
        case: Case,
        xs: list[Tensor],
        parameters: list[Tensor],
        grads: list[Tensor],
        definition: Operator,
    ) -> None:
        self.case, self.definition = case, definition
        self.xs = [x.requires_grad_() for x in xs]
        self.parameters = [p.requires_grad_() for p in parameters]
        self.grads = grads
        self.plain = [x.detach() for x in xs]
        self.fixed = [p.detach() for p in parameters]

    def forward(self, contender: Operator) -> Step:
        """Without autograd."""

        def step() -> object:
            with torch.no_grad():
                return contender(self.plain, *self.fixed)

        return step

    def forward_with_grad(self, contender: Operator) -> Step:
        """The forward of a training step."""
        return lambda: contender(self.xs, *self.parameters)

    def both(self, contender: Operator) -> Step:
        """Forward, and backward of every gradient."""
        return lambda: torch.autograd.grad(
            contender(self.xs, *self.parameters), [*self.xs, *self.parameters], self.grads
        )

    def backward_of(self, contender: Operator) -> Step:
        """The backward by autograd, every gradient, from one forward that is kept."""
        ys = contender(self.xs, *self.parameters)
        return lambda: torch.autograd.grad(
            ys, [*self.xs, *self.parameters], self.grads, retain_graph=True
        )

    def steps(
        self, contenders: dict[str, Operator], verdicts: dict[str, str]
    ) -> dict[tuple[str, str], Step]:
        """Forward, and forward with backward, of the contenders that are right: by (name, part)."""
        steps = {}
        for name, contender in contenders.items():
            if verdicts[name] == "right":
                steps[name, "forward"] = self.forward(contender)
                steps[name, "forward+backward"] = self.both(contender)
        return steps

    def verdicts(self, contenders: dict[str, Operator]) -> dict[str, str]:
        """Of each contender "right" or "wrong", or "failed" where it raises an error.

        It is right where outputs and gradients are about as near to float64 as the definition's.
        """
        wide = [t.detach().double().requires_grad_() for t in (*self.xs, *self.parameters)]
        wide_xs, wide_parameters = wide[: len(self.xs)], wide[len(self.xs) :]
        wide_grads = [g.double() for g in self.grads]
        exact = _results(self.definition, wide_xs, wide_parameters, wide_grads)
        plain = _results(self.definition, self.xs, self.parameters, self.grads)
        terms = math.prod((self.case.channels, *self.case.spatial))
        most = slack(DTYPES[self.case.dtype], terms)
        verdicts = {}
        for name, contender in contenders.items():
            try:
                results = _results(contender, self.xs, self.parameters, self.grads)
                right = is_near(results, exact, plain, most)
                with torch.no_grad():  # compilers make another program of it
                    ys = contender(self.plain, *self.fixed)
                right &= is_near(ys, exact[: len(ys)], plain[: len(ys)], most)
            except RuntimeError as error:
                print(f"{self.case}: {name} failed: {error}", flush=True)
                verdicts[name] = "failed"
                continue
            verdicts[name] = "right" if right else "wrong"
        return verdicts

    def floor(self) -> tuple[int, int]:
        """Bytes of a forward and of a backward with everything read and written once."""
        inputs, outputs = (sum(t.nbytes for t in maps) for maps in (self.xs, self.grads))
        return inputs + outputs, inputs + outputs + inputs


def _results(
    contender: Operator, xs: list[Tensor], parameters: list[Tensor], grads: list[Tensor]
) -> list[Tensor]:
    """Outputs, then gradients."""
    ys = contender(xs, *parameters)
    return [y.detach() for y in ys] + list(torch.autograd.grad(ys, [*xs, *parameters], grads))


def copy_step(like: Tensor, moved: int) -> Step:
    """A copy that reads and writes that many bytes in all, in the dtype of `like`."""
    source = like.detach().new_ones(math.ceil(moved / 2 / like.element_size()))
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
