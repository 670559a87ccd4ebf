"""The shipped CUDA C++ kernels on a CPU, over the table of cases, with threads in any order."""

import re
from ctypes import byref, c_int64

import pytest
import torch

import mpkernels as mpk
from mpkernels.eager.functional import KINDS
from mpkernels.ops.chip import ASSUMED as H100
from mpkernels.ops.chip import Chip
from mpkernels.ops.flags import mask_of
from mpkernels.ops.layout import geometry_of
from mpkernels.ops.onchip import on_chip, shared_bytes
from proof.checks import check_cross_connect
from proof.problems.cases import CASES, make_parameters, make_paths
from proof.problems.networks import NETWORKS
from proof.shim import driver

pytestmark = pytest.mark.skipif(driver.compiler() is None, reason="no g++")

CLUSTERS = (1, 2, 4, 8)
SEEDS = (0, 1, 2)
SUPPORTED = [c for c in CASES if c.dtype != torch.float64 and c.inputs <= 4 and c.outputs <= 4]
A100 = Chip(166912, 167936, 108, 1, lambda block: 0)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return driver.Machine(driver.build(tmp_path_factory.mktemp("shim"), "-O1"))


def check(machine, case, cluster, seed):
    machine.cluster, machine.seed, machine.traffic = cluster, seed, None
    with mpk.use_backend("native"), machine.forced():
        for kind in KINDS:
            check_cross_connect(case, kind)


@pytest.mark.parametrize("case", SUPPORTED, ids=str)
def test_every_case(case, machine):
    """Each case runs once, with the cluster sizes and seeds in rotation."""
    index = SUPPORTED.index(case)
    check(machine, case, CLUSTERS[index % 4], SEEDS[index // 4 % 3])


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_cluster_and_order(cluster, seed, machine):
    for case in SUPPORTED:
        check(machine, case, cluster, seed)


def run(machine, router, dtype, channels_last=False, batch=1):
    """All outputs and gradients, and the traffic of each direction."""
    m, n, k, c = router.inputs, router.outputs, 16, router.channels
    xs = [torch.randn(batch, c, *router.spatial).to(dtype) for _ in range(m)]
    if channels_last:
        xs = [x.contiguous(memory_format=torch.channels_last) for x in xs]
    parameters = [torch.randn(size) for size in ((m, k, c), (m, k), (m, n, k), (m, n))]
    machine.traffic = []
    *ys, gates, pooled = machine.cross_connect(xs, parameters, 0)
    forward, machine.traffic = machine.traffic, []
    grad_ys = [torch.randn(y.shape).to(y) for y in ys]
    grad_ys = [torch.empty_like(y).copy_(grad) for y, grad in zip(ys, grad_ys)]
    kept, wanted = [gates, pooled], mask_of((True,) * (m + 4))
    grads = machine.cross_connect_backward([*grad_ys, None], kept, xs, parameters, 0, wanted)
    results = [*ys, gates, pooled, *grads]
    backward, machine.traffic = machine.traffic, None
    return results, forward, backward


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_the_order_of_threads_changes_no_bit(channels_last, machine):
    router = NETWORKS["resnet20_2_cc"][2]
    machine.cluster, results = 4, []
    for seed in (0, 1, 2, 3):
        torch.manual_seed(0)
        machine.seed = seed
        results.append(run(machine, router, torch.bfloat16, channels_last, batch=2)[0])
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("router", NETWORKS["resnet18_2_cc"][:-1], ids=lambda r: r.name)  # maps
def test_every_element_is_loaded_once_and_stored_once(router, channels_last, machine):
    m, n = router.inputs, router.outputs
    x = torch.empty(1, router.channels, *router.spatial)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    launch = on_chip(geometry_of(x), m, n, 16, 2, H100)
    machine.cluster, machine.threads, machine.seed = launch.cluster, 64, 1
    _, forward, backward = run(machine, router, torch.bfloat16, channels_last)
    for traffic, read, written in ((forward, m, n), (backward, n + m, m)):
        for index, accesses in enumerate(traffic[: read + written]):
            assert (accesses.counts("reads") == (index < read)).all()
            assert (accesses.counts("writes") == (index >= read)).all()
            assert accesses.total("reads") + accesses.total("writes") == accesses.t.nbytes


@pytest.mark.parametrize("case", SUPPORTED[::3], ids=str)
def test_the_rule_counts_the_bytes_that_the_kernels_take(case, machine):
    geometry, k = geometry_of(make_paths(case)[0]), case.hidden
    c_geometry = driver.Geometry(driver._DTYPES[case.dtype], geometry.channels_last, *geometry[1:])
    for cluster in (1, 2, 3, 8, 16):
        for backward in (False, True):
            kept = case.outputs if backward else case.inputs
            sizes = (case.inputs, case.outputs, k, kept, cluster, 0)
            planned = machine.library.plan_bytes(byref(c_geometry), (c_int64 * 6)(*sizes), backward)
            args = (geometry, *sizes[:3], case.dtype.itemsize, kept, cluster, backward)
            assert planned == shared_bytes(*args)


WAITS = [
    (path.name, line)
    for path in sorted((driver.CSRC / "cuda").glob("*.cuh"))
    if path.name != "platform.cuh"
    for line, text in enumerate(path.read_text().splitlines(), 1)
    if re.search(r"\bwait_copies<", text)
]


@pytest.mark.parametrize(("file", "line"), WAITS, ids=str)
def test_a_copy_that_is_not_waited_for_is_noticed(file, line, machine):
    """Shared memory starts as NaN, so a value that is read too early shows."""
    machine.cluster, machine.threads, machine.seed = 2, 64, 1
    machine.library.skip(file.encode(), line)
    try:
        results = run(machine, NETWORKS["resnet20_2_cc"][2], torch.float32)[0]
    finally:
        machine.library.skip(b"none", 0)
    assert any(t.isnan().any() for t in results)


def test_a_stray_address_is_noticed(machine):
    machine.cluster, machine.threads, machine.seed, machine.traffic = 1, 64, 1, []
    x, parameters = torch.randn(2, 8, 4, 4), (torch.randn(1, 4, 8), None, torch.randn(1, 2, 4))
    original = machine._problem

    def longer(*given):
        geometry, c_geometry, parameters = original(*given)
        c_geometry.batch += 1
        return geometry, c_geometry, parameters

    machine._problem = longer
    try:
        with pytest.raises(RuntimeError, match="reads outside of the tensors"):
            machine.cross_connect([x], [*parameters, None], 0)
    finally:
        machine._problem, machine.traffic = original, None


def test_the_rule():
    def choice(router, itemsize, chip, backward=False, batch=128):
        geometry = geometry_of(torch.empty(batch, router.channels, *router.spatial, device="meta"))
        return on_chip(geometry, router.inputs, router.outputs, 16, itemsize, chip, backward)

    image, large, *_, small, _ = NETWORKS["resnet18_2_cc"]
    assert [choice(r, 2, H100).cluster for r in (image, large, small)] == [4, 8, 1]
    assert choice(large, 4, H100).cluster == 8  # one block per multiprocessor
    assert choice(large, 4, H100._replace(cluster=4)) is None
    assert choice(small, 2, A100).method == "shared" and choice(small, 4, A100) is None
    assert choice(large, 2, A100) is None and choice(small, 8, H100) is None
    for backward in (False, True):
        assert choice(large, 2, H100, backward) == choice(large, 2, H100, backward, batch=1)


def test_the_calls_reach_the_machine(machine):
    """A call that never reached the machine would also pass every comparison above."""
    machine.cluster, machine.threads, machine.seed, machine.traffic = 2, 64, 0, []
    case = SUPPORTED[0]
    with mpk.use_backend("native"), machine.forced():
        mpk.functional.cross_connect(make_paths(case), *make_parameters(case).values())
    assert machine.traffic
    machine.traffic = None
