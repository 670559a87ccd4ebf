"""The committed table of compiled kernels: complete, within budget, and true of today's kernels."""

import json

import pytest
import torch
from conftest import INTERPRETED

pytest.importorskip("triton", reason="triton is not installed")
if INTERPRETED:
    pytest.skip("the compiler runs in the other process", allow_module_level=True)

import triton
from aot import TARGETS, compile_for
from budgets import DTYPES, SHARED_BYTES, TABLE, Job, Row, jobs, map_accesses, page, rows
from networks import Router, shape
from recorder import launches_of

COMMITTED = json.loads(TABLE.read_text())
ROWS = [Row(*row) for row in COMMITTED["rows"]]

OTHER_COMPILER = f"the table is of Triton {COMMITTED['triton']}, here is {triton.__version__}"

# 8 bytes a thread: a full register file on the smallest of these cards, and a choice of ptxas,
# which stops at 40 registers.
SPILLING = {
    ("[32x16x16] 4->4", "fp32", "nchw", "resident_kernel", "sm_80"),
    ("[3x32x32] 1->2", "bf16", "nchw", "resident_kernel", "sm_90"),
}


def test_nothing_spills():
    spilling = {
        (row.router, row.dtype, row.layout, row.kernel, row.target) for row in ROWS if row.spilled
    }
    assert spilling == SPILLING
    assert all(row.spilled <= 10 for row in ROWS)  # two of them the load and the store


def test_registers_and_shared_memory():
    for row in ROWS:
        assert row.shared <= SHARED_BYTES, row
        lanes = 64 if row.target == "gfx942" else 32
        # A block must be able to start: its registers are at most all that a multiprocessor has.
        assert row.registers * row.num_warps * lanes <= 65536 * (2 if lanes == 64 else 1), row


def launches():
    """By a row's first four columns: warps, and by target what its tiles of maps ask for."""
    found = {}
    for job in jobs():
        for launch in job.launches():
            name = launch.kernel.__name__.strip("_")
            wide = {} if "parameter" in name else {t: map_accesses(launch, t) for t in TARGETS}
            key = shape(job.router), job.dtype, job.layout, name
            found[key] = launch.options["num_warps"], wide
    return found


LAUNCHES = launches()  # here, since a test would fill all of these maps


def test_maps_move_16_bytes_at_a_time():
    """As often as their tiles ask for, where a map's rows start at 16 bytes: not in 7 x 7 maps."""
    for row in ROWS:
        if "parameter" in row.kernel or "x7x7]" in row.router and row.layout == "nchw":
            continue
        if "x14x14]" in row.router and row.layout == "nchw" and row.dtype == "bf16":
            continue  # rows of 28 bytes: 8 bytes at a time
        if row.layout == "channels_last" and row.router.startswith("[3x"):
            continue  # rows of 3 values
        loads, stores = LAUNCHES[row[:4]][1][row.target]
        assert row.wide_loads >= loads and row.wide_stores >= stores, (row, loads, stores)


def test_the_table_covers_every_kernel_that_would_be_launched():
    """Rules may change only together with the table; this needs no compiler."""
    wanted = {key: num_warps for key, (num_warps, _) in LAUNCHES.items()}
    for target in TARGETS:
        found = {row[:4]: row.num_warps for row in ROWS if row.target == target}
        assert found == wanted


def test_the_page_shows_the_table():
    from budgets import PAGE

    if COMMITTED["triton"] != triton.__version__:
        pytest.skip(OTHER_COMPILER)
    assert PAGE.read_text() == page(ROWS)


CHOSEN = [
    Job("cross_connect", Router("", 64, (8, 8), 2, 2), "fp32", "nchw"),
    Job("cross_connect", Router("", 64, (56, 56), 2, 2), "bf16", "channels_last"),
    Job("cross_connect", Router("", 16, (32, 32), 3, 3), "fp32", "nchw"),
    Job("combine", Router("", 64, (16, 16), 2, 2), "bf16", "channels_last"),
]


@pytest.mark.parametrize("job", CHOSEN[:3], ids=str)
def test_the_table_is_true(job):
    """Compiled again here; registers are compared where the compiler is the table's.

    Triton 3.6 spills ten bytes of the sums of parameters' gradients on sm_100, and of no map.
    """
    found = list(rows(job, list(TARGETS)))
    old = triton.__version__.startswith("3.6.")
    assert not any(row.spilled for row in found if not (old and "parameter" in row.kernel))
    if COMMITTED["triton"] != triton.__version__:
        pytest.skip(OTHER_COMPILER + ", so registers were not compared")
    assert set(found) <= set(ROWS)


@pytest.mark.parametrize("job", CHOSEN, ids=str)
def test_wide_accesses_are_those_of_maps(job):
    """Those of small tensors, which the compiler cannot tell apart, are left with maps off by 2."""
    off = torch.empty(2, dtype=DTYPES[job.dtype])[1:]
    for launch in {each.kernel: each for each in job.launches()}.values():
        if "parameter" in launch.kernel.__name__ or "sums" in launch.kernel.__name__:
            continue
        narrow = tuple(
            (off,) * len(each) if isinstance(each, tuple) and torch.is_tensor(each[0]) else each
            for each in launch.arguments
        )
        aligned, other = (
            compile_for("sm_90", launch.kernel, arguments, launch.constants, launch.options)
            for arguments in (launch.arguments, narrow)
        )
        loads, stores = map_accesses(launch, "sm_90")
        assert loads > 0 and aligned.wide_loads - other.wide_loads >= loads
        assert aligned.wide_stores - other.wide_stores >= stores


def test_a_spill_would_be_seen():
    """One warp cannot hold two maps of 8,192 values."""
    forward, _ = launches_of(Router("", 128, (8, 8), 2, 2), torch.float32)
    (launch,) = forward
    code = compile_for("sm_90", launch.kernel, launch.arguments, launch.constants, {"num_warps": 1})
    assert code.spilled_bytes > 1000
