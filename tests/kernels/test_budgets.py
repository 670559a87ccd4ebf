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
from proof.launches import KERNELS
from proof.machine_code.aot import TARGETS, Compiled, compile_for, source
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
from proof.machine_code.order import read_order
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("job", SQUARE, ids=str)
def test_a_forward_asks_for_all_maps_before_threads_exchange_anything(job, dtype):
    (row,) = (
        row
        for row in rows([job._replace(dtype=dtype)], ["sm_90"], processes=1)
        if row.kernel == "resident_kernel"
    )
    assert row.code.early_wide_loads >= row.maps[0] > 0 and row.code.trips <= 3


def test_trips_are_loads_that_wait_for_others():
    """The third load follows the use of the second; the address of the last is a loaded value."""
    sass = """
        /*0000*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0010*/                   LDG.E R8, desc[UR4][R2.64+0x10] ;
        /*0020*/                   FADD R9, R9, R8 ;
        /*0030*/                   SHFL.BFLY PT, R10, R9, 0x1, 0x1f ;
        /*0040*/               @P0 LDG.E.128 R12, desc[UR4][R2.64+0x20] ;
        /*0050*/                   STG.E desc[UR4][R2.64], R20 ;
        /*0060*/                   LDG.E R21, desc[UR4][R14.64] ;
        /*0070*/                   LDG.E R22, desc[UR4][R2.64] ;
    """
    assert read_order(sass) == (1, 3)
    assert read_order(sass.replace("SHFL", "FADD")) == (2, 3)


@triton.jit
def _one_by_one(parts, COUNT: tl.constexpr):
    sums = ()
    for p in tl.static_range(COUNT):
        sums = sums + (tl.sum(parts[p], 1),)
    return sums


def exceeded_by_resident(code, kernel="resident_kernel"):
    """The ceilings of a resident kernel that this code exceeds for sm_90, as one text."""
    return " ".join(exceeded(kernel, "", "sm_90", code))


def test_sums_with_barriers_of_their_own_are_refused(monkeypatch):
    """Each of 16 products of maps is summed alone, which is as right."""
    _, (launch, *_) = launches_of(Router("", 64, (8, 8), 4, 4), torch.float32)
    together = compile_for("sm_90", launch.kernel, *launch[2:])
    assert exceeded_by_resident(together, "resident_backward_kernel") == ""
    monkeypatch.setattr(resident, "sums_of", _one_by_one)
    alone = compile_for("sm_90", launch.kernel, *launch[2:])
    assert "barriers" in exceeded_by_resident(alone, "resident_backward_kernel")


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
        early_wide_loads=0, trips=ceiling.trips, cpu_seconds=ceiling.cpu_seconds,
    )  # fmt: skip
    assert exceeded_by_resident(at_ceiling) == ""
    for column, limit in ceiling._asdict().items():
        assert column in exceeded_by_resident(at_ceiling._replace(**{column: limit + 1}))
    assert exceeded("new_kernel", "", "sm_90", at_ceiling) == ["new_kernel has no ceiling"]


def test_an_overlapping_launch_waits_before_it_loads():
    """Hopper starts it beside the one before it, whose last store it may not miss."""
    overlapping = {}
    for job in EVERY_KERNEL:
        for launch in job.launches():
            if "OVERLAP" in launch.constants:
                constants = {**launch.constants, "OVERLAP": True}
                specialised = source(launch.kernel, launch.arguments, constants)
                compiled = triton.compile(specialised, TARGETS["sm_90"], launch.options)
                overlapping[launch.kernel.__name__] = compiled.asm["ptx"]
    waiting = {"_parameter_gradients_kernel", "_add_parts_kernel"}
    letting = set(overlapping) - {"_add_parts_kernel"}
    assert waiting < set(overlapping) and len(overlapping) == 6
    for name, ptx in overlapping.items():
        assert ("griddepcontrol.launch_dependents" in ptx) == (name in letting)
        assert ("griddepcontrol.wait" in ptx) == (name in waiting)
        if name in waiting:
            assert ptx.index("griddepcontrol.wait") < ptx.index("ld.global")
        if name in waiting & letting:
            assert ptx.index("griddepcontrol.wait") < ptx.index("griddepcontrol.launch")


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
