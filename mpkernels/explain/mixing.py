"""CrossConnect and CrossStitch: the kernel of their one operator, and what it moves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mpkernels import eager
from mpkernels.availability import why_no_gpu
from mpkernels.explain.choice import choose, instruction_set
from mpkernels.explain.copies import copies
from mpkernels.explain.explanation import Cost, Explanation
from mpkernels.ops import native
from mpkernels.ops.check import check_gate, check_mix
from mpkernels.ops.layout import Geometry, geometry_of
from mpkernels.ops.onchip import ASSUMED as ASSUMED_CHIP
from mpkernels.ops.onchip import OnChip, chip_of, on_chip
from mpkernels.triton.launch import (
    ASSUMED,
    Resident,
    Walk,
    cross_connect_launch,
    kept_elements,
    most_kept,
    next_power_of_2,
    parameter_launches,
)
from mpkernels.triton.tuned import launch_for


def _why_walked(problem: _Problem, launch: Walk, backward: bool) -> str:
    """Why no block keeps a sample, and where its second read comes from."""
    geometry = problem.geometry
    kept = problem.outputs if backward else len(problem.xs)
    rows, cols = next_power_of_2(geometry.rows), next_power_of_2(geometry.cols)
    elements = kept_elements(geometry, kept, problem.itemsize)
    most = most_kept(geometry, problem.itemsize)
    if elements > most:
        reason = (
            f"{kept} maps of a sample, padded to {rows} x {cols}, are {elements} "
            f"registers; one thread block keeps {most}"
        )
    else:
        reason = f"w1 of one path, {problem.hidden} x {geometry.channels}, does not fit beside them"
    if launch.method == "streamed":
        return f"{reason}; blocks own whole samples, {launch.samples} at a time stay in L2"
    groups = f"groups of {launch.samples} samples stay in L2"
    return f"{reason}; {launch.chunks.count} blocks share a sample, {groups}"


def _on_chip(problem: _Problem, backward: bool) -> OnChip | None:
    """How CUDA C++ keeps a sample here, or without a GPU on an H100."""
    sizes = len(problem.xs), problem.outputs, problem.hidden, problem.itemsize
    here = _device(problem)
    chip = (chip_of(here) if here else None) or ASSUMED_CHIP
    return on_chip(problem.geometry, *sizes, chip, backward)


def _why_not_on_chip(problem: _Problem, backward: bool) -> str:
    """Why a sample that is walked is not kept in shared memory."""
    if (kept := _on_chip(problem, backward)) is None:
        return "nor does the shared memory of a cluster of blocks keep it"
    return (
        f"CUDA C++ could keep it, cluster of {kept.cluster} block(s), but two passes were faster "
        f"on an H100 in nearly all cases timed; {native.why_no_cuda or '`tune` tries both'}"
    )


@dataclass(frozen=True)
class _Problem:
    """What decides the cost; tensors are on meta."""

    operator: str
    device: str
    xs: list[Tensor]
    outputs: int
    hidden: int
    itemsize: int

    @property
    def geometry(self) -> Geometry:
        return geometry_of(self.xs[0])

    @property
    def one(self) -> int:
        """Bytes of one map."""
        return self.xs[0].numel() * self.itemsize


def _problem(
    router: torch.nn.Module, maps: list[Tensor], device: str, dtype: torch.dtype
) -> _Problem:
    if isinstance(router, eager.CrossConnect):
        parameters = (router.w1, router.b1, router.w2, router.b2)
        w1, b1, w2, b2 = (None if p is None else p.to("meta") for p in parameters)
        assert w1 is not None and w2 is not None
        check_gate("explain", maps, w1, b1, w2, b2)
        sizes = router.outputs, router.hidden
        return _Problem("cross_connect", device, maps, *sizes, dtype.itemsize)
    assert isinstance(router, eager.CrossStitch)
    check_mix("explain", maps, router.gates(len(maps[0])).to("meta"))
    return _Problem("mix", device, maps, router.paths, 0, dtype.itemsize)


def _eager_costs(problem: _Problem) -> tuple[Cost, Cost]:
    m, n, one = len(problem.xs), problem.outputs, problem.one
    forward = m + n * (5 * m - 3)  # pool, then products and sums of whole maps
    return (
        Cost(None, (m + n) * one, forward * one),
        Cost(None, (2 * m + n) * one, 3 * forward * one),
    )


def _read_again(problem: _Problem, backend: str) -> tuple[int, int, list[str]]:
    """Maps read twice in a forward and in a backward, and why."""
    m, n = len(problem.xs), problem.outputs
    if backend == "native" and problem.device == "cuda":
        return 0, 0, []
    if backend == "native":
        return (m if problem.operator == "cross_connect" else 0), n, []
    if problem.operator == "mix":
        # dX reads each dY; then dG reads each X_i once and for it every dY_j.
        return 0, m * n, []
    again, notes = [0, 0], []
    for direction, kept, maps in ((0, m, "X"), (1, n, "dY")):
        launch = _launch(problem, direction == 1)
        if isinstance(launch, Walk):
            again[direction] = kept
            back = direction == 1
            reason = f"{_why_walked(problem, launch, back)}; {_why_not_on_chip(problem, back)}"
            notes.append(f"{('forward', 'backward')[direction]} reads {maps} twice: {reason}")
    return again[0], again[1], notes


def _device(problem: _Problem) -> torch.device | None:
    """The GPU in question, if there is one."""
    if problem.device != "cuda" or why_no_gpu():
        return None
    return torch.device("cuda", torch.cuda.current_device())


def _launch(problem: _Problem, backward: bool) -> Resident | OnChip | Walk:
    m, n, hidden, itemsize = len(problem.xs), problem.outputs, problem.hidden, problem.itemsize
    here = _device(problem)
    if here is not None:
        return launch_for(problem.geometry, m, n, hidden, itemsize, here, backward)
    return cross_connect_launch(problem.geometry, m, n, hidden, itemsize, ASSUMED, backward)


def _launches(problem: _Problem, backend: str, backward: bool) -> int:
    """Of the router's own kernels, without those of the parameters' gradients."""
    if (backend, problem.operator) != ("triton", "cross_connect"):
        return 1
    launch = _launch(problem, backward)
    if not isinstance(launch, Walk) or launch.method == "streamed":
        return 1
    return 2 * -(-problem.geometry.batch // launch.samples)


def _fused_costs(problem: _Problem, backend: str) -> tuple[Cost, Cost, list[str]]:
    m, n, one = len(problem.xs), problem.outputs, problem.one
    forward_copies, backward_copies, notes = copies(problem.xs, "xs")
    forward_again, backward_again, why = _read_again(problem, backend)
    of_parameters = 0 if (backend, problem.device) == ("native", "cpu") else 1
    if (backend, problem.operator) == ("triton", "cross_connect"):
        on_chip_here = isinstance(_launch(problem, True), OnChip)
        of_parameters = 1 if on_chip_here else parameter_launches(problem.geometry.batch)

    def cost(launches: int, maps: int, copies: int, again: int) -> Cost:
        return Cost(launches + copies, maps * one, (maps + 2 * copies) * one, again * one)

    launches = [_launches(problem, backend, back) for back in (False, True)]
    forward = cost(launches[0], m + n, forward_copies, forward_again)
    backward = cost(launches[1] + of_parameters, 2 * m + n, backward_copies, backward_again)
    return forward, backward, notes + why


def explain_mixing(
    router: eager.CrossConnect | eager.CrossStitch,
    xs: list[Tensor],
    device: str,
    dtype: torch.dtype,
) -> Explanation:
    """Of the router's operator on the meta tensors xs, which it sees in `dtype` on `device`."""
    problem = _problem(router, xs, device, dtype)
    operator = problem.operator
    backend, notes = choose(router, device, (operator, f"{operator}_backward"))
    method = None
    if backend == "eager":
        forward, backward = _eager_costs(problem)
    else:
        forward, backward, why = _fused_costs(problem, backend)
        notes += why
    routed = operator == "cross_connect"
    if (backend, device, routed) == ("native", "cuda", True) and not _on_chip(problem, False):
        notes.append("no shared memory keeps such a sample: a call raises RuntimeError")
    if backend == "triton" and routed:
        method = _launch(problem, False).method
    instructions = instruction_set(backend, device)
    return Explanation(
        operator, device, backend, method, instructions, forward, backward, tuple(notes)
    )
