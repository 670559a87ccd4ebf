"""Which kernel would run for these tensors, what it moves, and why not a faster one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpkernels import eager, modules
from mpkernels.availability import why_no_gpu, why_no_kernel
from mpkernels.ops import backend as switch
from mpkernels.ops import native
from mpkernels.ops.check import check_gate, check_mix, check_paths
from mpkernels.ops.layout import Geometry, empty_map, geometry_of, strides_in_place
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

# A task of the C++ kernels holds at least this many elements (csrc/cpu/tasks.h has the same rules).
_TASK_ELEMENTS = 32768


@dataclass(frozen=True)
class Cost:
    """One direction of a router, with dense incoming gradients and every gradient wanted.

    Bytes are those of feature maps: gates [B, m, n], pooled values [B, m, C] and parameters are
    not counted.
    """

    launches: int | None  # kernels on a GPU, parallel loops on CPU; None: one a PyTorch operator
    floor: int  # bytes if every map is read once and written once
    moved: int  # the floor and copies; for the eager definition, about what its operators move
    again: int = 0  # bytes read once more, from a cache while the samples in flight fit there

    def __str__(self) -> str:
        launches = "a launch for every PyTorch operator"
        if self.launches is not None:
            launches = f"{self.launches} launch" + ("es" if self.launches != 1 else "")
        text = f"{launches}, {_bytes(self.moved)} moved, floor {_bytes(self.floor)}"
        return text + (f", {_bytes(self.again)} read again from cache" if self.again else "")


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; `str` of it is meant to be read."""

    operator: str  # "cross_connect" or "mix"
    device: str
    backend: str  # "native", "triton" or "eager"
    # On GPUs, by Triton: "resident", "streamed", "split"; by CUDA C++: "shared", "cluster".
    method: str | None
    instruction_set: str | None  # of the C++ kernels on CPU
    forward: Cost
    backward: Cost
    notes: tuple[str, ...]  # why not a faster one

    def __str__(self) -> str:
        detail = self.method or self.instruction_set
        backend = "CUDA C++" if self.method in ("shared", "cluster") else self.backend
        kernel = backend + (f" ({detail})" if detail else "")
        lines = [
            f"{self.operator} on {self.device}: {kernel}",
            f"  forward:  {self.forward}",
            f"  backward: {self.backward}",
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _choose(router: torch.nn.Module, device: str) -> tuple[str, list[str]]:
    """The backend for tensors on `device`, and what keeps it from being a faster one."""
    if not isinstance(router, (modules.CrossConnect, modules.CrossStitch)):
        return "eager", ["the router is eager; mpkernels.fuse(model) swaps in the fused one"]
    forced = switch.active_backend()
    if forced != "auto":
        notes = [f"use_backend({forced!r}) is in force"]
        reason = why_no_kernel(forced, device)
        if reason:
            notes.append(f"it cannot run on {device} tensors, a call raises RuntimeError: {reason}")
        return forced, notes
    wanted = {"cpu": "native", "cuda": "triton"}.get(device, "eager")
    if wanted == "eager":
        return wanted, [f"no kernel exists for {device} tensors; only CPU and CUDA have one"]
    reason = why_no_kernel(wanted, device)
    return ("eager", [f"{wanted} cannot run: {reason}"]) if reason else (wanted, [])


def _autocast_dtype(x: Tensor, device: str) -> torch.dtype:
    if device not in ("cpu", "cuda") or x.dtype == torch.float64:
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


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
    """Why no shared memory keeps a sample that is walked."""
    if (found := _on_chip(problem, backward)) is None:
        return "nor does the shared memory of a cluster of blocks keep it"
    missing = f": {native.why_no_cuda}" if native.why_no_cuda else ""
    return f"CUDA C++ on an H100 keeps it, cluster of {found.cluster} block(s){missing}"


def _shares_samples(geometry: Geometry, maps: int) -> bool:
    """Whether threads share each sample, in two loops, as there are too few samples for them."""
    threads = torch.get_num_threads()
    sample = maps * geometry.channels * geometry.positions
    return threads > 1 and geometry.batch < 2 * threads and sample >= 4 * _TASK_ELEMENTS


def _cpu_notes(geometry: Geometry, maps: int) -> list[str]:
    sample = max(1, maps * geometry.channels * geometry.positions)
    tasks = -(-geometry.batch // max(1, _TASK_ELEMENTS // sample))
    threads = torch.get_num_threads()
    if tasks >= threads or _shares_samples(geometry, maps):
        return []
    return [f"the batch makes {tasks} task(s) worth a thread, so {threads - tasks} thread(s) idle"]


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
    router: torch.nn.Module, xs: list[Tensor], device: str, dtype: torch.dtype
) -> _Problem:
    maps = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") for x in xs]
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


def _copies(problem: _Problem) -> tuple[int, int, list[str]]:
    """Copies of a forward and of a backward, and why they are made."""
    forward = backward = 0
    notes = []
    for i, x in enumerate(problem.xs):
        if strides_in_place(x, problem.geometry) is None:
            forward, backward = forward + 1, backward + 1
            notes.append(f"xs[{i}] has strides {tuple(x.stride())}: one copy before it is read")
        if strides_in_place(empty_map(x), problem.geometry) is None:
            backward += 1
            notes.append(f"xs[{i}] has another memory format than xs[0]: one copy of its gradient")
    return forward, backward, notes


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
    """The GPU that is asked about, if there is one."""
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
    if problem.operator != "cross_connect":
        return 1
    if backend != "triton" and problem.device == "cuda":
        return 1
    if backend != "triton":
        maps = len(problem.xs) * (1 + backward) + problem.outputs
        return 2 * problem.geometry.batch if _shares_samples(problem.geometry, maps) else 1
    launch = _launch(problem, backward)
    if not isinstance(launch, Walk) or launch.method == "streamed":
        return 1
    return 2 * -(-problem.geometry.batch // launch.samples)


def _fused_costs(problem: _Problem, backend: str) -> tuple[Cost, Cost, list[str]]:
    m, n, one = len(problem.xs), problem.outputs, problem.one
    forward_copies, backward_copies, notes = _copies(problem)
    forward_again, backward_again, why = _read_again(problem, backend)
    of_parameters = 1
    if (backend, problem.operator) == ("triton", "cross_connect"):
        on_chip_here = isinstance(_launch(problem, True), OnChip)
        of_parameters = 1 if on_chip_here else parameter_launches(problem.geometry.batch)

    def cost(launches: int, maps: int, copies: int, again: int) -> Cost:
        return Cost(launches + copies, maps * one, (maps + 2 * copies) * one, again * one)

    launches = [_launches(problem, backend, back) for back in (False, True)]
    forward = cost(launches[0], m + n, forward_copies, forward_again)
    backward = cost(launches[1] + of_parameters, 2 * m + n, backward_copies, backward_again)
    return forward, backward, notes + why


def explain(
    router: torch.nn.Module, xs: Tensor | Sequence[Tensor], device: str | None = None
) -> Explanation:
    """Tells which kernel `router(xs)` would run, without running it.

    Args:
        router: a CrossConnect or CrossStitch, fused or eager.
        xs: m maps [B, C, *spatial] or vectors [B, C]; only shapes, strides and dtypes are read,
            so meta and fake tensors do.
        device: asks about another type of device than that of xs: "cpu" or "cuda".

    Returns:
        The kernel, its launches, the bytes it moves beside the least possible, and why no faster
        kernel would run. `print` it.

    Raises:
        TypeError: the router is none of these, or a dtype does not fit.
        ValueError: a shape does not fit the router; the message names it.

    Example:
        >>> router = CrossConnect(32, inputs=2, outputs=2)
        >>> found = explain(router, [torch.randn(8, 32, 16, 16) for _ in range(2)], device="cuda")
        >>> found.forward.floor == (2 + 2) * 4 * 8 * 32 * 16 * 16
        True
    """
    if not isinstance(router, (eager.CrossConnect, eager.CrossStitch)):
        raise TypeError(
            f"explain: router must be a CrossConnect or CrossStitch, got {type(router).__name__}"
        )
    paths = eager.modules.as_paths(xs, router.inputs)
    check_paths("explain", paths)
    device = device or paths[0].device.type
    dtype = _autocast_dtype(paths[0], device)
    problem = _problem(router, paths, device, dtype)
    backend, notes = _choose(router, device)
    if dtype != paths[0].dtype:
        notes.append(f"autocast first casts every path from {paths[0].dtype} to {dtype}")
    if device == "cuda" and (reason := why_no_gpu()):
        notes.append(f"{reason}: this is what a machine with a GPU would run")
    method = instruction_set = None
    if backend == "eager":
        forward, backward = _eager_costs(problem)
    else:
        forward, backward, why = _fused_costs(problem, backend)
        notes += why
    routed = problem.operator == "cross_connect"
    if (backend, device, routed) == ("native", "cuda", True) and not _on_chip(problem, False):
        notes.append("no shared memory keeps such a sample: a call raises RuntimeError")
    if backend == "triton" and routed:
        method = _launch(problem, False).method
    if backend == "native" and device == "cpu" and native.why_no_cpu is None:
        instruction_set = torch.ops.mpkernels.instruction_set("")
        notes += _cpu_notes(problem.geometry, len(paths) + problem.outputs)
    return Explanation(
        problem.operator, device, backend, method, instruction_set, forward, backward, tuple(notes)
    )
