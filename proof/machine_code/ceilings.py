"""Ceilings on the machine code of each kernel, at every router, on every target.

A ceiling is about one and a half times the maximum seen with Triton 3.6 and 3.8 over all routers of
the paper's networks. Forward kernels of cross_connect stay within 60 barriers, and all its kernels
within 4,000 instructions and 200 shared stores. Tiles that Triton once passed through
shared memory took thousands of stores, and 31 to 76 CPU seconds to compile.
"""

from __future__ import annotations

from typing import NamedTuple

import triton

from proof.machine_code.aot import Compiled


class Ceiling(NamedTuple):
    """The ceilings of one kernel; the fields are named as in `Compiled`."""

    instructions: int
    barriers: int
    shared_stores: int
    spilled_bytes: int = 0
    trips: int = 30
    cpu_seconds: float = 10.0


CEILINGS = {
    "resident_kernel": Ceiling(3000, 60, 120, trips=6),
    "resident_backward_kernel": Ceiling(4000, 60, 110, trips=9),
    "streamed_kernel": Ceiling(3400, 60, 90),
    "streamed_backward_kernel": Ceiling(4000, 140, 110),
    "split_pool_kernel": Ceiling(1700, 50, 80),
    "split_mix_kernel": Ceiling(600, 27, 27),
    "split_dot_kernel": Ceiling(1000, 42, 50),
    "split_grad_kernel": Ceiling(1200, 50, 48),
    "_parameter_gradients_kernel": Ceiling(800, 32, 32),
    "_add_parts_kernel": Ceiling(1100, 34, 54),
    "gate_kernel": Ceiling(1300, 30, 18),
    "gate_backward_kernel": Ceiling(1100, 54, 54),
    "_mix_kernel": Ceiling(900, 0, 0),
    "_mix_backward_kernel": Ceiling(2000, 48, 60),
    "_mix_channels_backward_kernel": Ceiling(2000, 10, 260),
    "_mix_sums_kernel": Ceiling(300, 8, 12),
    "_combine_kernel": Ceiling(750, 0, 0),
    "_combine_backward_kernel": Ceiling(1700, 32, 45),
    "_combine_sums_kernel": Ceiling(1100, 48, 60),
}


ANY = "any router"
# Launches that the GPU report's rehearsal compiles, and budgets.py does not.
MIXED = "mix at any router"
FLOAT64 = "any router of float64 maps"  # they take twice the registers; no network has them


class Allowance(NamedTuple):
    """A higher limit for one column of one kernel on one target, under one Triton version."""

    kernel: str
    router: str
    target: str
    triton: str | tuple[str, ...]  # prefix of its version
    column: str
    most: float
    reason: str


_MIXED = "bf16: ptxas begins to mix the maps of the first paths before the last gates are known"
_BLOCKS = "ptxas stops at a number of registers that lets one more block run at a time"
ALLOWANCES = [
    Allowance("resident_kernel", "[64] 4->4", "sm_90", "3.6.", "barriers", 68,
              "the two warps of a block exchange each of its sums"),
    Allowance("resident_kernel", "[32x16x16] 4->4", "sm_90", "3.6.", "spilled_bytes", 70, _MIXED),
    Allowance("resident_kernel", "[128x8x8] 4->4", "sm_90", "3.6.", "spilled_bytes", 106, _MIXED),
    Allowance("resident_backward_kernel", "[3x32x32] 1->3", "sm_90", "3.6.", "spilled_bytes", 10,
              _BLOCKS),
    Allowance("streamed_backward_kernel", "[16x32x32] 4->4", "sm_80", "3.6.", "spilled_bytes", 24,
              "it reaches the 192 registers that launch.py grants it"),
    Allowance("_parameter_gradients_kernel", ANY, "sm_100", ("3.6.", "3.8."), "spilled_bytes", 13,
              _BLOCKS),
    Allowance("_mix_backward_kernel", MIXED, "sm_90", ("3.6.", "3.8."), "spilled_bytes", 24,
              "16 warps leave 128 registers to a thread"),
    Allowance("_mix_channels_backward_kernel", MIXED, "sm_90", "3.6.", "spilled_bytes", 20,
              _BLOCKS),
    Allowance("_mix_channels_backward_kernel", FLOAT64, "sm_90", "3.6.", "spilled_bytes", 80,
              "its sums take twice the registers"),
    Allowance("streamed_backward_kernel", FLOAT64, "sm_90", ("3.6.", "3.8."), "spilled_bytes", 265,
              "it reaches the 192 registers that launch.py grants it"),
    Allowance("_combine_kernel", FLOAT64, "sm_90", ("3.6.", "3.8."), "spilled_bytes", 10, _BLOCKS),
    Allowance("gate_backward_kernel", FLOAT64, "sm_90", ("3.6.", "3.8."), "spilled_bytes", 14,
              _BLOCKS),
]  # fmt: skip


def allowed_to(kernel: str, router: str, target: str) -> list[Allowance]:
    """The allowances under the installed Triton; `router` = ANY gives those of all routers."""
    return [
        each
        for each in ALLOWANCES
        if (each.kernel, each.target) == (kernel, target)
        and (router == ANY or each.router in (ANY, router))
        and triton.__version__.startswith(each.triton)
    ]


def exceeded(kernel: str, router: str, target: str, code: Compiled) -> list[str]:
    """Every ceiling that this code exceeds, in words."""
    if kernel not in CEILINGS:
        return [f"{kernel} has no ceiling"]
    limits = CEILINGS[kernel]._asdict()
    limits |= {each.column: each.most for each in allowed_to(kernel, router, target)}
    counts = {column: getattr(code, column) for column in limits}
    return [
        f"{kernel} at {router} for {target}: {counts[column]} {column}, at most {limit}"
        for column, limit in limits.items()
        if counts[column] > limit
    ]
