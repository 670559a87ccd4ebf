"""The CUDA C++ kernels on a CPU: the shipped sources, over the table of cases, in any order."""

import re
from ctypes import byref, c_int64

import pytest
import torch

import mpkernels as mpk
from mpkernels.ops.layout import geometry_of
from mpkernels.ops.onchip import Chip, on_chip, shared_bytes
from proof.checks import check_cross_connect
from proof.problems.cases import CASES, make_parameters, make_paths
from proof.problems.networks import NETWORKS
from proof.shim import driver

pytestmark = pytest.mark.skipif(driver.compiler() is None, reason="no g++")

CLUSTERS = (1, 2, 4, 8)
SEEDS = (0, 1, 2)
KEPT = [c for c in CASES if c.dtype != torch.float64 and c.inputs <= 4 and c.outputs <= 4]
H100 = Chip(232448, 233472, 16)
A100 = Chip(166912, 167936, 1)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return driver.Machine(driver.build(tmp_path_factory.mktemp("shim"), "-O1"))


def check(machine, case, cluster, seed):
    machine.cluster, machine.seed, machine.traffic = cluster, seed, None
    with mpk.use_backend("native"), machine.forced():
        check_cross_connect(case)


@pytest.mark.parametrize("case", KEPT, ids=str)
def test_every_case(case, machine):
    """Each case once; cluster and seed go round."""
    at = KEPT.index(case)
    check(machine, case, CLUSTERS[at % 4], SEEDS[at // 4 % 3])


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_cluster_and_order(cluster, seed, machine):
    for case in KEPT:
        check(machine, case, cluster, seed)


def run(machine, router, dtype, channels_last=False, batch=1):
    """ys, gates, pooled and all gradients, with the traffic of each direction."""
    m, n, k, c = router.inputs, router.outputs, 16, router.channels
    xs = [torch.randn(batch, c, *router.spatial).to(dtype) for _ in range(m)]
    if channels_last:
        xs = [x.contiguous(memory_format=torch.channels_last) for x in xs]
    parameters = [torch.randn(size) for size in ((m, k, c), (m, k), (m, n, k), (m, n))]
    machine.traffic = []
    ys, gates, pooled = machine.cross_connect(xs, *parameters)
    forward, machine.traffic = machine.traffic, []
    grad_ys = [torch.randn(y.shape).to(y) for y in ys]
    grad_ys = [torch.empty_like(y).copy_(grad) for y, grad in zip(ys, grad_ys)]
    wanted = [True] * (m + 4)
    grads = machine.cross_connect_backward(grad_ys, None, xs, gates, pooled, *parameters, wanted)
    found = [*ys, gates, pooled, *grads[0], *grads[1]]
    backward, machine.traffic = machine.traffic, None
    return found, forward, backward


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
        for at, one in enumerate(traffic[: read + written]):
            assert (one.counts("reads") == (at < read)).all()
            assert (one.counts("writes") == (at >= read)).all()
            assert one.total("reads") + one.total("writes") == one.t.nbytes


@pytest.mark.parametrize("case", KEPT[::3], ids=str)
def test_the_rule_counts_the_bytes_that_the_kernels_take(case, machine):
    geometry, k = geometry_of(make_paths(case)[0]), case.hidden
    of = driver.Geometry(driver._DTYPES[case.dtype], geometry.channels_last, *geometry[1:])
    for cluster in (1, 2, 3, 8, 16):
        for backward in (False, True):
            kept = case.outputs if backward else case.inputs
            sizes = (case.inputs, case.outputs, k, kept, cluster, 0)
            found = machine.library.plan_bytes(byref(of), (c_int64 * 6)(*sizes), backward)
            args = (geometry, *sizes[:3], case.dtype.itemsize, kept, cluster, backward)
            assert found == shared_bytes(*args)


PLACES = [
    (path.name, line)
    for path in sorted((driver.CSRC / "cuda").glob("*.cuh"))
    if path.name != "platform.cuh"
    for line, text in enumerate(path.read_text().splitlines(), 1)
    if re.search(r"\bwait_copies<", text)
]


@pytest.mark.parametrize(("file", "line"), PLACES, ids=str)
def test_a_copy_that_is_not_waited_for_is_noticed(file, line, machine):
    """So would be any value that a kernel reads before it is there: shared memory begins as NaN."""
    machine.cluster, machine.threads, machine.seed = 2, 64, 1
    machine.library.skip(file.encode(), line)
    try:
        found = run(machine, NETWORKS["resnet20_2_cc"][2], torch.float32)[0]
    finally:
        machine.library.skip(b"none", 0)
    assert any(t.isnan().any() for t in found)


def test_a_stray_address_is_noticed(machine):
    machine.cluster, machine.threads, machine.seed, machine.traffic = 1, 64, 1, []
    x, parameters = torch.randn(2, 8, 4, 4), (torch.randn(1, 4, 8), None, torch.randn(1, 2, 4))
    real = machine._problem

    def longer(xs, gate):
        geometry, c_geometry, of_gate = real(xs, gate)
        c_geometry.batch += 1
        return geometry, c_geometry, of_gate

    machine._problem = longer
    try:
        with pytest.raises(RuntimeError, match="reads outside of the tensors"):
            machine.cross_connect([x], *parameters, None)
    finally:
        machine._problem, machine.traffic = real, None


def test_the_rule():
    def found(router, itemsize, chip, backward=False, batch=128):
        geometry = geometry_of(torch.empty(batch, router.channels, *router.spatial, device="meta"))
        return on_chip(geometry, router.inputs, router.outputs, 16, itemsize, chip, backward)

    image, large, *_, small, _ = NETWORKS["resnet18_2_cc"]
    assert [found(r, 2, H100).cluster for r in (image, large, small)] == [4, 8, 1]
    assert found(large, 4, H100).cluster == 8  # one block a multiprocessor
    assert found(large, 4, H100._replace(cluster=4)) is None
    assert found(small, 2, A100).method == "shared" and found(small, 4, A100) is None
    assert found(large, 2, A100) is None and found(small, 8, H100) is None
    for backward in (False, True):
        assert found(large, 2, H100, backward) == found(large, 2, H100, backward, batch=1)


def test_the_wanted_kernel_ran(machine):
    """A call that never reached the machine would pass every comparison above."""
    machine.cluster, machine.threads, machine.seed, machine.traffic = 2, 64, 0, []
    case = KEPT[0]
    with mpk.use_backend("native"), machine.forced():
        mpk.functional.cross_connect(make_paths(case), *make_parameters(case).values())
    assert machine.traffic
    machine.traffic = None
