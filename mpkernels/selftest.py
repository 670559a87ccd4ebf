"""Checks every operator on every backend that works here against the definition in float64.

A result may be off by what `is_near` allows of float32, in which all backends accumulate, and by
its one rounding to the dtype of the maps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkernels import eager, functional
from mpkernels.nearness import share_of_bound, slack
from mpkernels.ops import backend
from mpkernels.ops.operator import OPERATORS as ALL
from mpkernels.ops.switch import Backend, active_backend, use_backend

BACKENDS = tuple(sorted(backend.BACKENDS))
OPERATORS = tuple(name for name in ALL if not name.endswith("_backward"))
_SIZES = {"B": 3, "m": 2, "n": 3, "K": 16, "C": 33, "D": 33, "R": 3 * 33}  # odd: no vectors
_SHAPES = {"xs": "BC", "us": "BR", "gates": "Bmn", "weight": "mRC", "bias": "mR", "scale": "nD"}
_SHAPES |= {"shift": "nD", "w1": "mKC", "b1": "mK", "w2": "mnK", "b2": "mn"}
# Operator -> the shape of each tensor that its function takes, a letter per dimension.
ARGUMENTS = {
    name: {k: _SHAPES[k] for k in signature(getattr(eager, name)).parameters if k in _SHAPES}
    for name in OPERATORS
}


class Problem(NamedTuple):
    """What maps look like."""

    dtype: torch.dtype
    spatial: tuple[int, ...] = ()
    channels_last: bool = False


def problems(operator: str) -> list[Problem]:
    """Vectors, NCHW and channels_last; float32 and bfloat16."""
    if operator == "cross_predict":  # takes vectors alone, and is one operator in float32 alone
        return [Problem(torch.float32)]
    layouts = ((), ((5, 7),), ((5, 7), True))
    return [Problem(d, *of) for d in (torch.float32, torch.bfloat16) for of in layouts]


def flat(results: Any) -> list[Tensor]:
    """All tensors in nested lists."""
    return [results] if isinstance(results, Tensor) else [t for r in results for t in flat(r)]


def _results(functions: Any, operator: str, of: Problem, **to: Any) -> list[Tensor]:
    """Outputs and gradients of random inputs that are first moved or cast by `to`."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if of.channels_last else torch.contiguous_format

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    def leaf(name: str, shape: str) -> Any:
        sizes = [_SIZES[letter] for letter in shape]
        if name not in ("xs", "us"):
            return (normal(*sizes) / sizes[-1] ** 0.5).to(**to).requires_grad_()
        maps = [normal(*sizes, *of.spatial).to(of.dtype) for _ in range(_SIZES["m"])]
        return [x.to(memory_format=layout, **to).requires_grad_() for x in maps]

    leaves = {name: leaf(name, shape) for name, shape in ARGUMENTS[operator].items()}
    outputs = flat(getattr(functions, operator)(**leaves))
    incoming = [torch.empty_like(y).copy_(normal(*y.shape).to(of.dtype)) for y in outputs]
    grads = torch.autograd.grad(outputs, flat(leaves.values()), incoming)
    return [t.detach().cpu() for t in (*outputs, *grads)]


def largest_error(operator: str, problem: Problem, device: str) -> float:
    """The largest error of any result, as a share of its bound; above 1 is wrong."""
    results = _results(functional, operator, problem, device=device)
    exact = _results(eager, operator, problem, dtype=torch.float64)
    plain = _results(eager, operator, problem, dtype=torch.float32)
    # Triton's interpreter truncates to bfloat16 where a GPU rounds: a whole ulp.
    ulps = 1.0 if (active_backend(), device) == ("triton", "cpu") else 0.5
    terms = max(t.numel() for t in exact)
    return share_of_bound(results, exact, plain, slack(torch.float32, terms), ulps)


def _check(name: Backend, device: str) -> bool:
    where = f"{name} on {device}".replace("triton on cpu", "triton in its interpreter")
    passed = True
    with use_backend(name):
        for operator in OPERATORS:
            if backend.why_not(operator, name, device):
                continue  # CUDA C++ has one operator
            worst = max(largest_error(operator, p, device) for p in problems(operator))
            passed &= worst <= 1
            verdict = "passed" if worst <= 1 else "FAILED"
            error = f"largest error {worst:.3f} of its bound"
            print(f"self-test {verdict}: {where}: {operator}: {error}")
    return passed


def run(names: Iterable[Backend]) -> bool:
    """Whether the named backends pass on every device where they work, at least one of them."""
    verdicts: list[bool] = []
    for name in names:
        verdicts += [
            _check(name, device)
            for device in backend.DEVICES
            if backend.why_not_here(name, device) is None
        ]
        if (
            name == "triton"
            and backend.why_no_triton() is None
            and backend.why_no_gpu() is not None
        ):
            if reason := backend.why_no_interpreter():
                print(f"self-test: triton: not tested: {reason}")
            elif not backend.triton_interprets():
                print("self-test: no GPU here, so Triton's kernels run in its interpreter:")
                variables = {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
                command = [sys.executable, "-m", "mpkernels", "--self-test", "triton"]
                sys.stdout.flush()
                done = subprocess.run(command, env={**os.environ, **variables}, check=False)
                verdicts.append(done.returncode == 0)
    if not verdicts:
        print("self-test FAILED: none of the chosen backends works here")
    return bool(verdicts) and all(verdicts)
