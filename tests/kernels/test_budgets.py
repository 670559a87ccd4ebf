"""Machine code of every kernel, on the Triton that is installed: below its ceilings, and wide."""

import pytest
import torch

from proof.where import INTERPRETED

pytest.importorskip("triton", reason="triton is not installed")
if INTERPRETED:
    pytest.skip("the compiler runs in the other process", allow_module_level=True)

import triton
import triton.language as tl

from mpkernels.triton import resident
from mpkernels.triton.gate_mlp import element
from proof.launches import KERNELS
from proof.machine_code.aot import Compiled, compile_for
from proof.machine_code.budgets import (
    DTYPES,
    EVERY_KERNEL,
    SHARED_BYTES,
    Job,
    all_rows,
    map_accesses,
    rows,
)
from proof.machine_code.ceilings import CEILINGS, allowed_to, exceeded
from proof.problems.networks import Router, shape
from proof.recorder import launches_of

SQUARE = [Job("cross_connect", Router("", 64, (8, 8), n, n)) for n in (1, 2, 3, 4)]


def above(found):
    """Every ceiling that any of these rows is above; no kernel may add atomically."""
    assert all(row.code.atomics == 0 for row in found)
    return [words for row in found for words in row.exceeded()]


def test_every_kernel_has_a_ceiling_and_is_compiled():
    launched = {each.kernel.__name__ for job in EVERY_KERNEL for each in job.launches()}
    assert set(KERNELS) == set(CEILINGS) == launched


@pytest.mark.parametrize("job", dict.fromkeys([*SQUARE, *EVERY_KERNEL]), ids=str)
def test_kernels_stay_below_their_ceilings(job):
    assert above(list(rows([job], ["sm_90"], processes=1))) == []


@triton.jit
def _spread(g, o, BLOCK_OUTPUTS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr):
    return element(g, o, BLOCK_OUTPUTS)[:, None, None]


def of_resident(code, router=""):
    """Which ceilings of the forward that keeps its maps this code is above, for sm_90."""
    return " ".join(exceeded("resident_kernel", router, "sm_90", code))


def test_tiles_that_pass_through_shared_memory_are_refused(monkeypatch):
    """A gate as a tensor of one element: no result changes, and no register is spilled."""
    (launch,), _ = launches_of(Router("", 16, (8, 8), 3, 3), torch.float32)
    assert of_resident(compile_for("sm_90", launch.kernel, *launch[2:])) == ""
    monkeypatch.setattr(resident, "_factor", _spread)
    refused = of_resident(compile_for("sm_90", launch.kernel, *launch[2:]))
    assert "shared_stores" in refused and "barriers" in refused


def test_a_spill_would_be_seen():
    """One warp cannot hold two maps of 8,192 values."""
    (launch,), _ = launches_of(Router("", 128, (8, 8), 2, 2), torch.float32)
    code = compile_for("sm_90", launch.kernel, launch.arguments, launch.constants, {"num_warps": 1})
    assert code.spilled_bytes > 1000 and "spilled_bytes" in of_resident(code)


def test_ceilings_bite():
    """Each by itself; a kernel without any is refused, and allowances are for those they name."""
    ceiling = CEILINGS["resident_kernel"]
    most = Compiled(*ceiling[:4], registers=255, shared=0, wide_loads=0, wide_stores=0, atomics=0,
                    cpu_seconds=ceiling.cpu_seconds)  # fmt: skip
    assert of_resident(most) == ""
    for column, limit in ceiling._asdict().items():
        assert column in of_resident(most._replace(**{column: limit + 1}))
    assert exceeded("new_kernel", "", "sm_90", most) == ["new_kernel has no ceiling"]


CHOSEN = [
    Job("cross_connect", Router("", 64, (8, 8), 2, 2)),
    Job("combine", Router("", 64, (16, 16), 2, 2), "bf16", "channels_last"),
]
WALKED = [
    Job("cross_connect", Router("", 64, (56, 56), 2, 2), "bf16", "channels_last"),
    Job("cross_connect", Router("", 16, (32, 32), 3, 3)),
]


@pytest.mark.parametrize(
    "job", [*CHOSEN, *(pytest.param(job, marks=pytest.mark.slow) for job in WALKED)], ids=str
)
def test_wide_accesses_are_those_of_maps(job):
    """Those of small tensors, which the compiler cannot tell apart, are left with maps off by 2."""
    off = torch.empty(2, dtype=DTYPES[job.dtype])[1:]
    for launch in job.launches():
        if map_accesses(launch, "sm_90") == (0, 0):
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


@pytest.fixture(scope="module")
def table():
    """Every kernel at every router of the paper; minutes."""
    return list(all_rows())


@pytest.mark.slow
def test_no_kernel_is_above_its_ceiling(table):
    assert above(table) == []


@pytest.mark.slow
def test_every_allowance_is_needed(table):
    """Of those for the Triton that is installed."""
    needed = {}
    for row in table:
        for allowed in allowed_to(row.kernel, shape(row.job.router), row.target):
            limit = getattr(CEILINGS[row.kernel], allowed.column)
            needed.setdefault(allowed, False)
            needed[allowed] |= getattr(row.code, allowed.column) > limit
    assert all(needed.values()), needed


@pytest.mark.slow
def test_registers_and_shared_memory(table):
    for row in table:
        assert row.code.shared <= SHARED_BYTES, row
        lanes = 64 if row.target == "gfx942" else 32
        # A block must be able to start: its registers are at most all that a multiprocessor has.
        assert row.code.registers * row.num_warps * lanes <= 65536 * (2 if lanes == 64 else 1), row


@pytest.mark.slow
def test_maps_move_16_bytes_at_a_time(table):
    """As often as their tiles ask for, where a map's rows start at 16 bytes: not in 7 x 7 maps."""
    for row in table:
        router, nchw = shape(row.job.router), row.job.layout == "nchw"
        if nchw and "x7x7]" in router:
            continue
        if nchw and "x14x14]" in router and row.job.dtype == "bf16":
            continue  # rows of 28 bytes: 8 bytes at a time
        if not nchw and router.startswith("[3x"):
            continue  # rows of 3 values
        loads, stores = row.maps
        assert row.code.wide_loads >= loads and row.code.wide_stores >= stores, (row, loads, stores)
