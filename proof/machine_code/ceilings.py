"""What the machine code of each kernel may come to at most, at every router, on every target.

A ceiling is about one and a half times the most that was seen with Triton 3.6 and 3.8, for any
router of the paper's networks. Forwards of cross_connect keep to 60 barriers, no kernel of it to
more than 4,000 instructions and 200 shared stores. Tiles that pass through shared memory, which
Triton once made of them, took thousands of stores, and 31 to 76 CPU seconds to compile.
"""

from __future__ import annotations

from typing import NamedTuple

import triton

from proof.machine_code.aot import Compiled


class Ceiling(NamedTuple):
    """The most of one kernel; the names are those of `Compiled`."""

    instructions: int
    barriers: int
    shared_stores: int
    spilled_bytes: int = 0
    cpu_seconds: float = 10.0


CEILINGS = {
    "resident_kernel": Ceiling(3000, 60, 130),
    "resident_backward_kernel": Ceiling(4000, 200, 200),
    "streamed_kernel": Ceiling(3400, 60, 90),
    "streamed_backward_kernel": Ceiling(4000, 140, 110),
    "split_pool_kernel": Ceiling(1700, 50, 80),
    "split_mix_kernel": Ceiling(650, 14, 18),
    "split_dot_kernel": Ceiling(1000, 42, 50),
    "split_grad_kernel": Ceiling(1200, 50, 48),
    "_parameter_gradients_kernel": Ceiling(800, 32, 32),
    "_add_parts_kernel": Ceiling(1100, 34, 54),
    "gate_kernel": Ceiling(1300, 30, 18),
    "gate_backward_kernel": Ceiling(1100, 54, 54),
    "_mix_kernel": Ceiling(280, 0, 0),
    "_grad_gates_kernel": Ceiling(1300, 30, 32),
    "_combine_kernel": Ceiling(750, 0, 0),
    "_combine_backward_kernel": Ceiling(1700, 32, 45),
    "_combine_sums_kernel": Ceiling(1100, 48, 60),
}


ANY = "any router"
# Those that the GPU report's rehearsal compiles and the table of budgets.py does not.
MIXED = "mix at any router"
FLOAT64 = "any router of float64 maps"  # which take twice the registers, and which no network has


class Allowance(NamedTuple):
    """One kernel may come to more of one column on one target, as one Triton compiles it."""

    kernel: str
    router: str
    target: str
    triton: str | tuple[str, ...]  # how its version begins
    column: str
    most: float
    reason: str


_LAYOUT = "bf16 in channels_last: the pooled channels of each path change their layout once more"
_MAPS = "sums over the positions of 16 pairs of paths, a value a channel"
_BLOCKS = "ptxas stops at a number of registers that lets one more block run at a time"
ALLOWANCES = [
    Allowance("resident_kernel", "[64] 4->4", "sm_90", ("3.6.", "3.7.", "3.8."), "barriers", 63,
              "sums over the channels of each of the samples that share a block"),
    Allowance("resident_kernel", "[64x8x8] 4->4", "sm_90", "3.8.", "barriers", 63, _LAYOUT),
    Allowance("resident_kernel", "[128x8x8] 4->4", "sm_90", "3.8.", "barriers", 63, _LAYOUT),
    Allowance("streamed_backward_kernel", "[16x32x32] 4->4", "sm_80", "3.6.", "spilled_bytes", 24,
              "it reaches the 192 registers that launch.py grants it"),
    Allowance("_parameter_gradients_kernel", ANY, "sm_100", "3.6.", "spilled_bytes", 10, _BLOCKS),
    Allowance("_grad_gates_kernel", ANY, "sm_80", "3.6.", "spilled_bytes", 12, _BLOCKS),
    Allowance("_grad_gates_kernel", ANY, "sm_90", "3.8.", "spilled_bytes", 12, _BLOCKS),
    Allowance("_grad_gates_kernel", MIXED, "sm_90", "3.6.", "spilled_bytes", 18, _BLOCKS),
    Allowance("streamed_backward_kernel", FLOAT64, "sm_90", ("3.6.", "3.8."), "spilled_bytes", 265,
              "it reaches the 192 registers that launch.py grants it"),
    Allowance("_combine_kernel", FLOAT64, "sm_90", ("3.6.", "3.8."), "spilled_bytes", 10, _BLOCKS),
    Allowance("gate_backward_kernel", FLOAT64, "sm_90", ("3.6.", "3.8."), "spilled_bytes", 14,
              _BLOCKS),
    Allowance("_grad_gates_kernel", MIXED, "sm_90", "3.6.", "shared_stores", 224, _MAPS),
]  # fmt: skip


def allowed_to(kernel: str, router: str, target: str) -> list[Allowance]:
    """Those that the Triton which is installed needs, of all routers if it may be any."""
    return [
        each
        for each in ALLOWANCES
        if (each.kernel, each.target) == (kernel, target)
        and (router == ANY or each.router in (ANY, router))
        and triton.__version__.startswith(each.triton)
    ]


def exceeded(kernel: str, router: str, target: str, code: Compiled) -> list[str]:
    """Every ceiling that this code is above, in words; none: the kernel is as it should be."""
    if kernel not in CEILINGS:
        return [f"{kernel} has no ceiling"]
    most = CEILINGS[kernel]._asdict()
    most |= {each.column: each.most for each in allowed_to(kernel, router, target)}
    found = {column: getattr(code, column) for column in most}
    return [
        f"{kernel} at {router} for {target}: {found[column]} {column}, at most {limit}"
        for column, limit in most.items()
        if found[column] > limit
    ]
