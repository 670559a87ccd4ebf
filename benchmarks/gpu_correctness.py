"""Every operator on fresh random inputs, against float64 within the bounds of the tests."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import random
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkernels import functional

if importlib.util.find_spec("pytest") is None:
    # closeness needs one flag of conftest, which is a file of pytest's fixtures otherwise.
    sys.modules.setdefault("conftest", types.ModuleType("conftest")).INTERPRETED = (  # type: ignore[attr-defined]
        False
    )

import closeness  # noqa: E402
from closeness import ROUNDOFF, Bounded, CombineBounds, GateBounds, gamma  # noqa: E402
from networks import NETWORKS  # noqa: E402

OPERATORS = ("cross_connect", "gate", "mix", "mix by channel", "combine")
DTYPES = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64
}  # fmt: skip
PARAMETERS = ("w1", "b1", "w2", "b2")
COMBINED = ("bias", "scale", "shift")
Expected = dict[str, tuple[Tensor, Tensor]]


class Router(NamedTuple):
    """Channels and size of a map, paths in and out."""

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


ROUTERS = [
    *(Router(*router[1:]) for paths in (2, 3, 4) for router in NETWORKS[f"basecnn_{paths}_cc"]),
    *(Router(16, (32, 32), paths, paths) for paths in (2, 3, 4)),
    Router(64, (56, 56), 2, 2),
    Router(256, (14, 14), 2, 2),
    Router(512, (7, 7), 2, 2),
    Router(13, (5, 7), 2, 3),
]
BATCHES = (128, 5, 1)


def all_cases() -> list[Case]:
    """Every combination; each router, dtype and layout comes up once before any batch repeats."""
    kinds = [
        (router, dtype, layout)
        for router, dtype in itertools.product(ROUTERS, DTYPES)
        for layout in (("nchw", "channels_last") if router.spatial else ("nchw",))
    ]
    random.Random(0).shuffle(kinds)  # so that large maps do not meet in the card's memory
    return [
        Case(*kind, BATCHES[(at + turn) % len(BATCHES)])
        for turn in range(len(BATCHES))
        for at, kind in enumerate(kinds)
    ]


class Problem(NamedTuple):
    """Inputs of all operators and gradients of their outputs."""

    xs: list[Tensor]
    us: list[Tensor]
    parameters: list[Tensor]
    combined: list[Tensor]
    gates: Tensor
    channel_gates: Tensor
    grad_ys: list[Tensor]
    grad_gates: Tensor | None

    def part(self, samples: slice) -> Problem:
        """The same problem for some of the samples."""

        def cut(t: Tensor) -> Tensor:
            return t.detach()[samples].requires_grad_(t.requires_grad)

        grad_gates = None if self.grad_gates is None else cut(self.grad_gates)
        return Problem(
            [cut(x) for x in self.xs], [cut(u) for u in self.us], self.parameters, self.combined,
            cut(self.gates), cut(self.channel_gates), [cut(y) for y in self.grad_ys], grad_gates,
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


def run(
    operator: str, problem: Problem, router: Callable[..., Any] | None = None
) -> dict[str, Tensor]:
    """Outputs and all gradients by name; `router` stands in for cross_connect's maps."""
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
        grad_gates = [] if problem.grad_gates is None else [problem.grad_gates]
        if operator == "gate":
            outputs, grads = {"gates": functional.gate(xs, *parameters)}, grad_gates
        else:
            if router is None:
                ys, gates = functional.cross_connect(xs, *parameters)
            else:
                ys, gates = router(xs, *parameters), None
            outputs = {f"y{j}": y for j, y in enumerate(ys)}
            if grad_gates:
                outputs["gates"] = gates
            grads = [*problem.grad_ys, *grad_gates]
    found = torch.autograd.grad(list(outputs.values()), list(inputs.values()), grads)
    named = {f"grad_{name}": grad for name, grad in zip(inputs, found)}
    return {name: t.detach() for name, t in (outputs | named).items()}


def _gate_gradients(
    bounds: GateBounds, d: Bounded, problem: Problem, grad_ys: Tensor | None
) -> Iterator[tuple[str, Tensor, Tensor]]:
    da, dh, dz = bounds.backward(d)
    for name, wanted in bounds.parameters(da, dh).items():
        yield f"grad_{name}", wanted.value, wanted.error
    for i, x in enumerate(problem.xs):
        trailing = (...,) + (None,) * (x.dim() - 2)
        value = (dz.value[:, i] / bounds.positions)[trailing].expand(x.shape)
        error = dz.error[:, i] + 3 * bounds.a * dz.value[:, i].abs()
        error = (error / bounds.positions)[trailing].expand(x.shape)
        if grad_ys is not None:
            g = closeness.over_maps(bounds.g.value, x.dim())[i]
            value = value + (g * grad_ys).sum(0)
            mixed = closeness.mixed_error(bounds.g, grad_ys, bounds.a, transposed=True)[i]
            error = error + mixed + gamma(len(grad_ys) + 3, bounds.a) * value.abs()
        yield f"grad_x{i}", value, error


def _gated(operator: str, problem: Problem, a: float) -> Iterator[tuple[str, Tensor, Tensor]]:
    xs = [x.detach().double() for x in problem.xs]
    bounds = GateBounds(xs, [p.detach().double() for p in problem.parameters], a)
    direct = torch.zeros_like(bounds.g.value)
    if problem.grad_gates is not None:
        yield "gates", bounds.g.value, bounds.g.error
        direct = problem.grad_gates.double()
    if operator == "gate":
        yield from _gate_gradients(bounds, Bounded(direct, torch.zeros_like(direct)), problem, None)
        return
    maps, outer = torch.stack(xs), torch.stack([y.double() for y in problem.grad_ys])
    weights = closeness.over_maps(bounds.g.value, xs[0].dim())
    for j, error in enumerate(closeness.mixed_error(bounds.g, maps, a)):
        yield f"y{j}", (weights[:, j] * maps).sum(0), error
    dims = tuple(range(1, xs[0].dim()))
    value = torch.stack([torch.stack([(x * dy).sum(dims) for dy in outer], -1) for x in maps], 1)
    error = torch.stack(
        [torch.stack([closeness.dot_bound(x, dy, a, dims) for dy in outer], -1) for x in maps], 1
    )
    total = Bounded(value + direct, error + 3 * a * (value.abs() + direct.abs()))
    yield from _gate_gradients(bounds, total, problem, outer)


def _mixed(operator: str, problem: Problem, a: float) -> Iterator[tuple[str, Tensor, Tensor]]:
    by_channel = operator == "mix by channel"
    g = (problem.channel_gates if by_channel else problem.gates).detach().double()
    maps = torch.stack([x.detach().double() for x in problem.xs])
    outer = torch.stack([y.double() for y in problem.grad_ys])
    dims = maps.dim() - 1
    weights = g.permute(1, 2, 0, *range(3, g.dim()))[(...,) + (None,) * (dims - g.dim() + 2)]
    terms = gamma(len(maps) + 3, a)
    for j in range(len(outer)):
        products = weights[:, j] * maps
        yield f"y{j}", products.sum(0), terms * products.abs().sum(0)
    terms = gamma(len(outer) + 3, a)
    for i in range(len(maps)):
        products = weights[i] * outer
        yield f"grad_x{i}", products.sum(0), terms * products.abs().sum(0)
    summed = tuple(range(2 if by_channel else 1, dims))
    values = [[(x * dy).sum(summed) if summed else x * dy for dy in outer] for x in maps]
    errors = [
        [closeness.dot_bound(x, dy, a, summed) if summed else 3 * a * (x * dy).abs()
         for dy in outer] for x in maps
    ]  # fmt: skip
    value, error = (
        torch.stack([torch.stack(row, 1) for row in rows], 1) for rows in (values, errors)
    )
    yield "grad_gates", value, error


def _combined(operator: str, problem: Problem, a: float) -> Iterator[tuple[str, Tensor, Tensor]]:
    wide = [t.detach().double() for t in (*problem.us, problem.gates, *problem.combined)]
    m = len(problem.us)
    bounds = CombineBounds(wide[:m], wide[m:], True, a)
    for j, (value, error) in enumerate(zip(bounds.y.value, bounds.y.error)):
        yield f"y{j}", value, error
    found = bounds.backward(torch.stack([y.double() for y in problem.grad_ys]))
    for i, (value, error) in enumerate(zip(found["us"].value, found["us"].error)):
        yield f"grad_u{i}", value, error
    for name in ("gates", *COMBINED):
        yield f"grad_{name}", found[name].value, found[name].error


def expected(operator: str, problem: Problem) -> Expected:
    """What `run` must find: values in float64 and the bound of each element's error."""
    dtype = problem.xs[0].dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rule = {"gate": _gated, "cross_connect": _gated, "combine": _combined}.get(operator, _mixed)
    made = {}
    for name, value, error in rule(operator, problem, ROUNDOFF[wide]):
        to = dtype if name.startswith(("y", "grad_x", "grad_u")) else wide
        made[name] = (value, closeness.rounded(value, error, to, wide))
    return made


def shares(found: dict[str, Tensor], wanted: Expected) -> dict[str, float]:
    """The largest error of each tensor as a share of its bound; infinite for NaN or no tensor."""
    result = {}
    for name, (value, bound) in wanted.items():
        if name not in found or found[name].shape != value.shape:
            result[name] = float("inf")
            continue
        ratio = (found[name].double() - value).abs() / bound
        result[name] = ratio.nan_to_num(float("inf")).max().item()
    return result


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fills every new tensor with NaN, so that no hole stays unseen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _halves_agree(operator: str, problem: Problem, found: dict[str, Tensor]) -> bool:
    """Whether each sample's results do not depend, bit by bit, on the batch that it is in."""
    batch = len(problem.xs[0])
    middle = batch // 2
    halves = [run(operator, problem.part(s)) for s in (slice(middle), slice(middle, batch))]
    each = [name for name in found if name not in {f"grad_{p}" for p in (*PARAMETERS, *COMBINED)}]
    return all(torch.equal(found[n], torch.cat([half[n] for half in halves])) for n in each)


def check(case: Case, device: str, seed: int, deadline: float) -> dict[str, Any] | None:
    """Shares of the bounds of all operators, and what is wrong; None once time is up."""
    if time.time() > deadline:
        return None
    problem, row, wrong = draw(case, device, seed), {}, []
    for operator in OPERATORS:
        with poisoned():
            found, again = run(operator, problem), run(operator, problem)
            agree = len(problem.xs[0]) < 2 or _halves_agree(operator, problem, found)
        share = shares(found, expected(operator, problem))
        row[operator] = max(share.values())
        wrong += [f"{operator}: {name} is {s:.3g} bounds off" for name, s in share.items() if s > 1]
        if not all(torch.equal(t, again[name]) for name, t in found.items()):
            wrong.append(f"{operator}: two runs differ")
        if not agree:
            wrong.append(f"{operator}: halves of the batch differ from the batch")
    if device == "cuda":
        torch.cuda.empty_cache()  # several processes share the card
    return {"case": str(case), "dtype": case.dtype, "share": row, "wrong": wrong, "seed": seed}


def summary(rows: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Largest shares by operator and dtype, and all that is wrong."""
    done = [row for row in rows if row is not None]
    largest: dict[str, dict[str, float]] = {operator: {} for operator in OPERATORS}
    for row in done:
        for operator, share in row["share"].items():
            before = largest[operator].get(row["dtype"], 0.0)
            largest[operator][row["dtype"]] = max(before, share)
    wrong = [f"{row['case']} (seed {row['seed']}): {text}" for row in done for text in row["wrong"]]
    return {"cases": len(rows), "checked": len(done), "largest share": largest, "wrong": wrong}
