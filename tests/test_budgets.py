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
from budgets import DTYPES, SHARED_BYTES, TABLE, Row, jobs, page, rows, shape
from networks import Router
from recorder import launches_of

COMMITTED = json.loads(TABLE.read_text())
ROWS = [Row(*row) for row in COMMITTED["rows"]]

# A few bytes of a map's 64 kB, where a whole register file is full: channels_last on sm_80 alone.
SPILLING = {
    ("[16x32x32] 2->2", "fp32", "channels_last", "resident_kernel", "sm_80"),
    ("[32x16x16] 4->4", "bf16", "channels_last", "resident_kernel", "sm_80"),
    ("[128x8x8] 4->4", "bf16", "channels_last", "resident_kernel", "sm_80"),
}


def test_nothing_spills():
    spilling = {
        (row.router, row.dtype, row.layout, row.kernel, row.target) for row in ROWS if row.spilled
    }
    assert spilling <= SPILLING
    assert all(row.spilled < 64 for row in ROWS)


def test_registers_and_shared_memory():
    for row in ROWS:
        assert row.shared <= SHARED_BYTES, row
        lanes = 64 if row.target == "gfx942" else 32
        # A block must be able to start: its registers are at most all that a multiprocessor has.
        assert row.registers * row.num_warps * lanes <= 65536 * (2 if lanes == 64 else 1), row


def test_maps_move_16_bytes_at_a_time():
    """Where a map's rows start at 16 bytes; 7 x 7 maps have rows that do not."""
    for row in ROWS:
        aligned = "x7x7]" not in row.router or row.layout == "channels_last"
        wide_enough = row.router[1:].split("]")[0] not in ("32", "256", "3x32x32", "3x224x224")
        if not aligned or not wide_enough or "parameter" in row.kernel:
            continue
        if "x14x14]" in row.router and row.layout == "nchw" and row.dtype == "bf16":
            continue  # rows of 28 bytes: 8 bytes at a time
        if row.target == "gfx942" and row.dtype == "bf16" and "resident" not in row.kernel:
            continue  # 8 wavefronts of 64 lanes share 2,048 values: 8 bytes at a time
        assert row.wide_loads > 0, row
        if row.kernel not in ("split_pool_kernel", "split_dot_kernel"):
            assert row.wide_stores > 0, row


def test_the_table_covers_every_kernel_that_would_be_launched():
    """Rules may change only together with the table; this needs no compiler."""
    torch.use_deterministic_algorithms(False)  # it would fill all of these maps
    wanted = {}
    for router, dtype, layout in jobs():
        for direction in launches_of(
            router, DTYPES[dtype], channels_last=layout == "channels_last"
        ):
            for launch in direction:
                name = launch.kernel.__name__.strip("_")
                wanted[shape(router), dtype, layout, name] = launch.options["num_warps"]
    for target in TARGETS:
        found = {row[:4]: row.num_warps for row in ROWS if row.target == target}
        assert found == wanted


def test_the_page_shows_the_table():
    from budgets import PAGE

    if COMMITTED["triton"] == triton.__version__:
        assert PAGE.read_text() == page(ROWS)


CHOSEN = [
    (Router("", 64, (8, 8), 2, 2), "fp32", "nchw"),
    (Router("", 64, (56, 56), 2, 2), "bf16", "channels_last"),
    (Router("", 16, (32, 32), 3, 3), "fp32", "nchw"),
]


@pytest.mark.parametrize("job", CHOSEN, ids=lambda job: f"{shape(job[0])} {job[1]} {job[2]}")
def test_the_table_is_true(job):
    """Compiled again here; registers are compared where the compiler is the table's."""
    for row in rows(*job, list(TARGETS)):
        assert row.spilled == 0, row
        if COMMITTED["triton"] == triton.__version__:
            assert row in ROWS


def test_a_spill_would_be_seen():
    """One warp cannot hold two maps of 8,192 values."""
    forward, _ = launches_of(Router("", 128, (8, 8), 2, 2), torch.float32)
    (launch,) = forward
    code = compile_for("sm_90", launch.kernel, launch.arguments, launch.constants, {"num_warps": 1})
    assert code.spilled_bytes > 1000
