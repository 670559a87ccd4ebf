"""Checks every backend that works here against the float64 definition, within derived bounds.

All maps, weights and incoming gradients are positive, so sums do not cancel: a sum of N products
is off by at most N roundings of itself, in any order. Roundings add up along the formulas; the
one difference, dA = g (d - <g, d>), is bounded through the sum of its magnitudes. A result that
is rounded to the dtype of the maps adds half an ulp. Odd hidden units, and odd channels of what is
combined, are clearly off.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mpkernels import eager, functional
from mpkernels.availability import DEVICES, why_no_gpu, why_not
from mpkernels.ops import backend
from mpkernels.ops.switch import active_backend, use_backend

BACKENDS = ("eager", "native", "triton")
OPERATORS = ("cross_connect", "gate", "mix", "combine")
_HALF_ULP = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
_ACCUMULATE = _HALF_ULP[torch.float32]
_PARAMETERS = {
    "cross_connect": ("w1", "b1", "w2", "b2"),
    "gate": ("w1", "b1", "w2", "b2"),
    "mix": ("gates",),
    "combine": ("gates", "bias", "scale", "shift"),
}


class Problem(NamedTuple):
    """One router: sizes, layout and dtype."""

    channels: int
    spatial: tuple[int, ...]
    channels_last: bool
    dtype: torch.dtype
    batch: int = 3
    inputs: int = 2
    outputs: int = 3
    hidden: int = 16


class Bounded(NamedTuple):
    """An exact result, the magnitude of its terms, and how many roundings of it are allowed."""

    exact: Tensor
    magnitude: Tensor
    roundings: float


def problems() -> list[Problem]:
    """NCHW, channels_last and vectors; float32 and bfloat16."""
    return [
        Problem(channels, spatial, channels_last, dtype)
        for dtype in _HALF_ULP
        for channels, spatial, channels_last in (
            (13, (5, 7), False),
            (13, (5, 7), True),
            (33, (), False),
        )
    ]


def _inputs(problem: Problem) -> dict[str, Tensor]:
    """Positive float64 values that are exact in the dtypes they are used in."""
    generator = torch.Generator().manual_seed(0)

    def positive(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        values = torch.rand(sizes, generator=generator, dtype=torch.float64) + 0.1
        return values.to(dtype).double()

    batch, m, n, units = problem.batch, problem.inputs, problem.outputs, problem.hidden
    maps = (batch, problem.channels, *problem.spatial)
    b1 = positive(m, units)
    b1[:, 1::2] -= 16  # W1 mean(X) is at most 1.1 * 1.1 * 4
    shift = positive(n, problem.channels)
    shift[:, 1::2] -= 2 * m * 1.1**3 + 1.1  # what comes before it is at most m 1.1^2 (1.1 + 1.1)
    predictions = (batch, n * problem.channels, *problem.spatial)
    return {
        **{f"x{i}": positive(*maps, dtype=problem.dtype) for i in range(m)},
        **{f"u{i}": positive(*predictions, dtype=problem.dtype) for i in range(m)},
        "bias": positive(m, n * problem.channels),
        "scale": positive(n, problem.channels),
        "shift": shift.float().double(),
        "w1": (positive(m, units, problem.channels) * 4 / problem.channels).float().double(),
        "b1": b1.float().double(),
        "w2": (positive(m, n, units) / units).float().double(),
        "b2": positive(m, n),
        "gates": positive(batch, m, n),
        **{f"grad_y{j}": positive(*maps, dtype=problem.dtype) for j in range(n)},
        "grad_gates": positive(batch, m, n),
    }


def _results(
    operator: str, problem: Problem, inputs: dict[str, Tensor], functions: object
) -> dict[str, Tensor]:
    """Outputs and gradients of one operator, by the functions of `functions`."""
    paths = [f"{'u' if operator == 'combine' else 'x'}{i}" for i in range(problem.inputs)]
    names = [*paths, *_PARAMETERS[operator]]
    leaves = {name: inputs[name].detach().requires_grad_() for name in names}
    xs, rest = [leaves[name] for name in paths], [leaves[k] for k in _PARAMETERS[operator]]
    outputs: dict[str, Tensor] = {}
    if operator == "combine":
        rest.insert(2, True)  # type: ignore[arg-type]
    found = getattr(functions, operator)(xs, *rest)
    if operator != "gate":
        ys = found[0] if operator == "cross_connect" else found
        outputs.update({f"y{j}": y for j, y in enumerate(ys)})
    if operator in ("cross_connect", "gate"):
        outputs["gates"] = found if operator == "gate" else found[1]
    torch.autograd.backward(list(outputs.values()), [inputs[f"grad_{k}"] for k in outputs])
    grads = {f"grad_{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {**{name: y.detach() for name, y in outputs.items()}, **grads}


def _bounds(operator: str, problem: Problem, inputs: dict[str, Tensor]) -> dict[str, Bounded]:
    """Exact results with their bounds."""
    exact = _results(operator, problem, inputs, eager)
    batch, m, n, k = problem.batch, problem.inputs, problem.outputs, problem.hidden
    c, s = problem.channels, int(torch.Size(problem.spatial).numel())
    if operator == "mix":
        of = {"y": m + 1, "grad_x": n + 1, "grad_gates": c * s + 1}
        return {
            name: Bounded(value, value, of[name.rstrip("0123456789")])
            for name, value in exact.items()
        }
    if operator == "combine":
        of_sums = s + batch + 2 * m + 8  # over positions and samples, of terms with a sum of paths
        bounds = {name: Bounded(value, value, of_sums) for name, value in exact.items()}
        bounds["grad_gates"] = Bounded(exact["grad_gates"], exact["grad_gates"], c * s + 8)
        for j in range(n):  # a negative shift takes more away than is left
            y = exact[f"y{j}"]
            size = y + 2 * inputs["shift"][j].abs()[(...,) + (None,) * len(problem.spatial)]
            bounds[f"y{j}"] = Bounded(y, size * (y > 0), 2 * m + 5)
        return bounds
    w1, w2 = inputs["w1"], inputs["w2"]
    xs = torch.stack([inputs[f"x{i}"] for i in range(m)], 1).reshape(batch, m, c, s)
    z = xs.mean(3)
    hidden = (torch.einsum("mkc,bmc->bmk", w1, z) + inputs["b1"]).relu()
    largest = (torch.einsum("mnk,bmk->bmn", w2, hidden) + inputs["b2"]).max().item()
    of_z = s + 1
    of_hidden = of_z + c + 2
    of_gates = 2 * largest * (of_hidden + k + 2) + largest + n + 10  # exp: of its argument's size
    d = inputs["grad_gates"]
    of_d = 0
    if operator == "cross_connect":
        grad_ys = torch.stack([inputs[f"grad_y{j}"] for j in range(n)], 1)
        d = d + torch.einsum("bip,bjp->bij", xs.flatten(2), grad_ys.flatten(2))
        of_d = c * s + 2
    g = exact["gates"]
    size_logits = g * (d + (g * d).sum(-1, keepdim=True))
    size_hidden = torch.einsum("mnk,bmn->bmk", w2, size_logits) * (hidden > 0)
    size_z = torch.einsum("mkc,bmk->bmc", w1, size_hidden) / s
    of_logits = 2 * of_gates + of_d + n + 4
    of_grad_hidden = of_logits + n + 1
    bounds = {
        "gates": Bounded(g, g, of_gates),
        "grad_w1": Bounded(
            exact["grad_w1"],
            torch.einsum("bmk,bmc->mkc", size_hidden, z),
            of_grad_hidden + of_z + batch + 1,
        ),
        "grad_b1": Bounded(exact["grad_b1"], size_hidden.sum(0), of_grad_hidden + batch),
        "grad_w2": Bounded(
            exact["grad_w2"],
            torch.einsum("bmn,bmk->mnk", size_logits, hidden),
            of_logits + of_hidden + batch + 1,
        ),
        "grad_b2": Bounded(exact["grad_b2"], size_logits.sum(0), of_logits + batch),
    }
    trailing = (...,) + (None,) * len(problem.spatial)
    for i in range(m):
        size = size_z[:, i][trailing].expand_as(exact[f"grad_x{i}"])
        if operator == "cross_connect":
            mixed = [g[:, i, j, None][trailing] * inputs[f"grad_y{j}"] for j in range(n)]
            size = size + torch.stack(mixed).sum(0)
        roundings = of_grad_hidden + k + n + 5
        bounds[f"grad_x{i}"] = Bounded(exact[f"grad_x{i}"], size, roundings)
    for j in range(n if operator == "cross_connect" else 0):
        y = exact[f"y{j}"]
        bounds[f"y{j}"] = Bounded(y, y, of_gates + m + 1)
    return bounds


def _narrow(problem: Problem, inputs: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    """The same values in the dtypes and layout of the problem, on the device."""
    narrow = {}
    for name, value in inputs.items():
        is_map = name.startswith(("x", "u", "grad_y"))
        narrow[name] = value.to(device, problem.dtype if is_map else torch.float32)
        if is_map and problem.channels_last:
            narrow[name] = narrow[name].contiguous(memory_format=torch.channels_last)
    return narrow


def largest_error(operator: str, problem: Problem, device: str) -> float:
    """The largest error of any result, as a share of its bound; above 1 is wrong."""
    inputs = _inputs(problem)
    found = _results(operator, problem, _narrow(problem, inputs, device), functional)
    # Triton's interpreter truncates to bfloat16 where a GPU rounds: a whole ulp.
    stores = 2 if device == "cpu" and active_backend() == "triton" else 1
    worst = 0.0
    for name, (exact, magnitude, roundings) in _bounds(operator, problem, inputs).items():
        half_ulp = stores * _HALF_ULP[found[name].dtype]
        error = (found[name].double().cpu() - exact).abs()
        bound = roundings * _ACCUMULATE * magnitude * (1 + half_ulp) + half_ulp * exact.abs()
        share = torch.where(error == 0, 0.0, error / bound).nan_to_num(float("inf"))
        worst = max(worst, share.max().item())
    return worst


def _check(name: str, device: str) -> bool:
    # CUDA C++ has one operator so far; Triton runs the others on GPUs.
    operators = ("mix",) if (name, device) == ("native", "cuda") else OPERATORS
    where = f"{name} on {device}"
    if (name, device) == ("triton", "cpu"):
        where = "triton in its interpreter"
    passed = True
    with use_backend(name):
        for operator in operators:
            worst = max(largest_error(operator, problem, device) for problem in problems())
            verdict = "passed" if worst <= 1 else "FAILED"
            passed &= worst <= 1
            print(
                f"self-test {verdict}: {where}: {operator}: largest error {worst:.3f} of its bound"
            )
    return passed


def _passes_interpreted() -> bool:
    """The self-test of Triton's kernels in a process of its own, in Triton's interpreter."""
    package_root = str(Path(__file__).resolve().parents[1])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = dict(os.environ, TRITON_INTERPRET="1", PYTHONPATH=os.pathsep.join(paths))
    command = [sys.executable, "-m", "mpkernels", "--self-test", "triton"]
    sys.stdout.flush()
    return subprocess.run(command, env=environment, check=False).returncode == 0


def run(names: Iterable[str]) -> bool:
    """Checks the named backends on every device where they work; whether all passed.

    False too where none of them works here.
    """
    verdicts = []
    for name in names:
        verdicts += [_check(name, device) for device in DEVICES if why_not(name, device) is None]
        if name == "triton" and backend.why_no_triton() is None and why_no_gpu() is not None:
            if reason := backend.why_no_interpreter():
                print(f"self-test: triton: not tested: {reason}")
            elif not backend.triton_interprets():
                print("self-test: no GPU here, so Triton's kernels run in its interpreter:")
                verdicts.append(_passes_interpreted())
    if not verdicts:
        print("self-test FAILED: none of the chosen backends works here")
    return bool(verdicts) and all(verdicts)
