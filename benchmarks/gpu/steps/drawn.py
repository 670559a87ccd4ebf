"""A problem for every operator: fresh random inputs, and a call with all its gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mpkernels import functional

OPERATORS = ("cross_connect", "gate", "mix", "mix by channel", "combine")
DTYPES = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64
}  # fmt: skip
PARAMETERS = ("w1", "b1", "w2", "b2")
COMBINED = ("bias", "scale", "shift")


class Router(NamedTuple):
    """Channels and size of a map, and the numbers of paths in and out."""

    channels: int
    spatial: tuple[int, ...]
    inputs: int
    outputs: int

    def __str__(self) -> str:
        shape = ", ".join(str(size) for size in (self.channels, *self.spatial))
        return f"[{shape}] {self.inputs}->{self.outputs}"


class Case(NamedTuple):
    """One problem."""

    router: Router
    dtype: str
    layout: str
    batch: int

    def __str__(self) -> str:
        return f"{self.router} {self.dtype} {self.layout} batch {self.batch}"


class Problem(NamedTuple):
    """Inputs of all operators and gradients of their outputs."""

    xs: list[Tensor]
    us: list[Tensor]
    parameters: list[Tensor]
    combined: list[Tensor]
    gates: Tensor
    channel_gates: Tensor
    grad_ys: list[Tensor]
    grad_gates: Tensor

    def part(self, samples: slice) -> Problem:
        """The same problem for some of the samples."""

        def cut(t: Tensor) -> Tensor:
            return t.detach()[samples].requires_grad_(t.requires_grad)

        return Problem(
            [cut(x) for x in self.xs], [cut(u) for u in self.us], self.parameters, self.combined,
            cut(self.gates), cut(self.channel_gates), [cut(y) for y in self.grad_ys],
            cut(self.grad_gates),
        )  # fmt: skip


def draw(case: Case, device: str, seed: int) -> Problem:
    """Fresh inputs; parameters are scaled so that gates differ clearly between samples."""
    torch.manual_seed(seed)
    (c, spatial, m, n), k, batch = case.router, 16, case.batch
    dtype = DTYPES[case.dtype]
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def map_(channels: int = c) -> Tensor:
        x = torch.randn(batch, channels, *spatial, device=device).to(dtype)
        last = case.layout == "channels_last"
        return x.contiguous(memory_format=torch.channels_last) if last else x

    def values(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, device=device) * scale).to(wide)

    scales = (((m, k, c), 4 / c**0.5), ((m, k), 0.3), ((m, n, k), 2 / k**0.5), ((m, n), 0.3))
    return Problem(
        [map_().requires_grad_() for _ in range(m)],
        [map_(n * c).requires_grad_() for _ in range(m)],
        [values(*shape, scale=scale).requires_grad_() for shape, scale in scales],
        [values(*shape).requires_grad_() for shape in ((m, n * c), (n, c), (n, c))],
        values(batch, m, n).requires_grad_(),
        values(batch, m, n, c).requires_grad_(),
        [map_() for _ in range(n)],
        values(batch, m, n),
    )


def run_operator(operator: str, problem: Problem) -> dict[str, Tensor]:
    """Outputs and all gradients by name."""
    xs, parameters = problem.xs, problem.parameters
    outputs: dict[str, Tensor]
    if operator.startswith("mix"):
        gates = problem.channel_gates if operator == "mix by channel" else problem.gates
        inputs = {**{f"x{i}": x for i, x in enumerate(xs)}, "gates": gates}
        outputs = {f"y{j}": y for j, y in enumerate(functional.mix(xs, gates))}
        grads = problem.grad_ys
    elif operator == "combine":
        us, (bias, scale, shift) = problem.us, problem.combined
        inputs = {f"u{i}": u for i, u in enumerate(us)} | {"gates": problem.gates}
        inputs |= dict(zip(COMBINED, problem.combined))
        ys = functional.combine(us, problem.gates, bias, True, scale, shift)
        outputs, grads = {f"y{j}": y for j, y in enumerate(ys)}, problem.grad_ys
    else:
        inputs = {f"x{i}": x for i, x in enumerate(xs)} | dict(zip(PARAMETERS, parameters))
        if operator == "gate":
            outputs, grads = {"gates": functional.gate(xs, *parameters)}, [problem.grad_gates]
        else:
            ys, gates = functional.cross_connect(xs, *parameters)
            outputs = {f"y{j}": y for j, y in enumerate(ys)} | {"gates": gates}
            grads = [*problem.grad_ys, problem.grad_gates]
    of_inputs = torch.autograd.grad(list(outputs.values()), list(inputs.values()), grads)
    gradients = {f"grad_{name}": grad for name, grad in zip(inputs, of_inputs)}
    return {name: t.detach() for name, t in (outputs | gradients).items()}
