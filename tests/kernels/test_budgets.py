"""Machine code of every kernel under the installed Triton: below ceilings, with wide accesses."""

import pytest
import torch

from proof.where import INTERPRETED

pytest.importorskip("triton", reason="triton is not installed")
if INTERPRETED:
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

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

MIXED = [
    Job("mix", Router("", 64, (56, 56), 3, 3)),
    Job("mix", Router("", 64, (56, 56), 4, 4), "bf16", "channels_last"),
    Job("mix", Router("", 32, (), 4, 4)),
]


def excesses(compiled_rows):
    """Every ceiling that one of these rows exceeds; no row may have atomics."""
    assert all(row.code.atomics == 0 for row in compiled_rows)
    return [excess for row in compiled_rows for excess in row.exceeded()]


def test_every_kernel_has_a_ceiling_and_is_compiled():
    launched = {each.kernel.__name__ for job in EVERY_KERNEL for each in job.launches()}
    assert set(KERNELS) == set(CEILINGS) == launched


@pytest.mark.parametrize("job", dict.fromkeys([*SQUARE, *EVERY_KERNEL, *MIXED]), ids=str)
def test_kernels_stay_below_their_ceilings(job):
    assert excesses(list(rows([job], ["sm_90"], processes=1))) == []


@triton.jit
def _spread(g, o, BLOCK_OUTPUTS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr):
    return element(g, o, BLOCK_OUTPUTS)[:, None, None]


def exceeded_by_resident(code, router=""):
    """The ceilings of the resident forward that this code exceeds for sm_90, as one text."""
    return " ".join(exceeded("resident_kernel", router, "sm_90", code))


def test_tiles_that_pass_through_shared_memory_are_refused(monkeypatch):
    """A gate becomes a tensor [1, 1, 1], which changes no result and spills nothing."""
    (launch,), _ = launches_of(Router("", 16, (8, 8), 3, 3), torch.float32)
    assert exceeded_by_resident(compile_for("sm_90", launch.kernel, *launch[2:])) == ""
    monkeypatch.setattr(resident, "_factor", _spread)
    excess = exceeded_by_resident(compile_for("sm_90", launch.kernel, *launch[2:]))
    assert "shared_stores" in excess and "barriers" in excess


def test_a_spill_would_be_seen():
    """One warp cannot hold two maps of 8,192 values."""
    (launch,), _ = launches_of(Router("", 128, (8, 8), 2, 2), torch.float32)
    code = compile_for("sm_90", launch.kernel, launch.arguments, launch.constants, {"num_warps": 1})
    assert code.spilled_bytes > 1000 and "spilled_bytes" in exceeded_by_resident(code)


def test_ceilings_bite():
    """Each ceiling refuses one more than its limit; a kernel without ceilings is refused too."""
    ceiling = CEILINGS["resident_kernel"]
    at_ceiling = Compiled(
        *ceiling[:4], registers=255, shared=0, wide_loads=0, wide_stores=0, atomics=0,
        cpu_seconds=ceiling.cpu_seconds,
    )  # fmt: skip
    assert exceeded_by_resident(at_ceiling) == ""
    for column, limit in ceiling._asdict().items():
        assert column in exceeded_by_resident(at_ceiling._replace(**{column: limit + 1}))
    assert exceeded("new_kernel", "", "sm_90", at_ceiling) == ["new_kernel has no ceiling"]


CHOSEN = [
    Job("cross_connect", Router("", 64, (8, 8), 2, 2)),
    Job("combine", Router("", 64, (16, 16), 2, 2), "bf16", "channels_last"),
    Job("mix", Router("", 64, (56, 56), 2, 2)),
    Job("mix", Router("", 64, (56, 56), 3, 3), "bf16", "channels_last"),
    Job("mix", Router("", 256, (14, 14), 2, 2)),  # 16 does not divide the length of a row
    Job("mix", Router("", 4096, (), 5, 4), "bf16"),
    Job("mix", Router("", 32, (), 2, 2)),
]
WALKED = [
    Job("cross_connect", Router("", 64, (56, 56), 2, 2), "bf16", "channels_last"),
    Job("cross_connect", Router("", 16, (32, 32), 3, 3)),
]


@pytest.mark.parametrize(
    "job", [*CHOSEN, *(pytest.param(job, marks=pytest.mark.slow) for job in WALKED)], ids=str
)
def test_wide_accesses_are_those_of_maps(job):
    """With maps off their 16-byte alignment, only the wide accesses of small tensors are left.

    A tensor that is an argument of its own is small, and off its alignment in both.
    """
    unaligned = torch.empty(2, dtype=DTYPES[job.dtype])[1:]
    for launch in job.launches():
        if map_accesses(launch, "sm_90") == (0, 0):
            continue
        given = tuple(unaligned if torch.is_tensor(each) else each for each in launch.arguments)
        misaligned = tuple(
            (unaligned,) * len(each)
            if type(each) is tuple and torch.is_tensor(each[0])  # a gate's are small
            else each
            for each in given
        )
        aligned, narrow = (
            compile_for("sm_90", launch.kernel, arguments, launch.constants, launch.options)
            for arguments in (given, misaligned)
        )
        loads, stores = map_accesses(launch, "sm_90")
        assert loads > 0 and aligned.wide_loads - narrow.wide_loads >= loads
        assert aligned.wide_stores - narrow.wide_stores >= stores


@pytest.fixture(scope="module")
def table():
    """Every kernel at every router of the paper, which takes minutes."""
    return list(all_rows())


@pytest.mark.slow
def test_no_kernel_is_above_its_ceiling(table):
    assert excesses(table) == []


@pytest.mark.slow
def test_every_allowance_is_needed(table):
    """Every allowance for the installed Triton is needed by a kernel."""
    needed = {}
    for row in table:
        for allowance in allowed_to(row.kernel, shape(row.job.router), row.target):
            limit = getattr(CEILINGS[row.kernel], allowance.column)
            needed.setdefault(allowance, False)
            needed[allowance] |= getattr(row.code, allowance.column) > limit
    assert all(needed.values()), needed


@pytest.mark.slow
def test_registers_and_shared_memory(table):
    for row in table:
        assert row.code.shared <= SHARED_BYTES, row
        lanes = 64 if row.target == "gfx942" else 32
        # A block can start only if its registers fit one multiprocessor.
        assert row.code.registers * row.num_warps * lanes <= 65536 * (2 if lanes == 64 else 1), row


@pytest.mark.slow
def test_maps_move_16_bytes_at_a_time(table):
    """Tiles use wide accesses wherever a map's rows start at multiples of 16 bytes."""
    for row in table:
        router, nchw = shape(row.job.router), row.job.layout == "nchw"
        if nchw and "x7x7]" in router:
            continue
        if nchw and "x14x14]" in router and row.job.dtype == "bf16":
            continue  # rows of 28 bytes
        if not nchw and router.startswith("[3x"):
            continue  # rows of 3 values
        loads, stores = row.maps
        assert row.code.wide_loads >= loads and row.code.wide_stores >= stores, (row, loads, stores)
