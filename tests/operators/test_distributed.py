"""DTensors: two processes against one, and what is refused."""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor

import mpkernels as mpk
from mpkernels.models.training import parallel
from proof.problems.functions import ROUTERS
from proof.problems.routers import TwoRouters

WORLD = 2
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch has no gloo")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def join(rank, world, port):
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    return init_device_mesh("cpu", (world,))


def whole(t):
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def compare(rank, port, batch):
    """Every router in this process and over all of them: outputs, gates and gradients."""
    mesh = join(rank, WORLD, port)
    for name, (build, path) in ROUTERS.items():
        torch.manual_seed(0)
        alone = build(mpk).double()
        xs = [torch.randn(batch, *path().shape[1:], dtype=torch.float64) for _ in range(2)]
        for placement in (Replicate(), Shard(0)):
            spread = distribute_module(copy.deepcopy(alone), mesh)
            found = []
            for router, place in (
                (alone, lambda x: x.clone()),
                (spread, lambda x, p=placement: distribute_tensor(x, mesh, [p])),
            ):
                leaves = [place(x).detach().requires_grad_() for x in xs]
                ys, gates = router(leaves, return_gates=True)
                loss = sum((j + 1) * whole(y).square().sum() for j, y in enumerate((*ys, gates)))
                grads = torch.autograd.grad(loss, [*leaves, *router.parameters()])
                found.append([whole(t) for t in (*ys, gates, *grads)])
                assert [y.shape[0] for y in ys] == [batch] * len(ys)
            for a, b in zip(*found, strict=True):
                torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12, msg=f"{name} {placement}")
    parallel.finish()


@pytest.mark.parametrize("batch", [4, 5, 1])  # of one, a process has none
def test_two_processes_have_the_results_of_one(batch):
    torch.multiprocessing.spawn(compare, (free_port(), batch), nprocs=WORLD)


def record(rank, port):
    """Each process records its part of the images; together they are those of one process."""
    join(rank, WORLD, port)
    torch.manual_seed(0)
    network, x = TwoRouters(), torch.randn(5, 4, 3)
    with mpk.record(network) as recorded:
        network(x[:3] if rank == 0 else x[3:])
    for each, gates in zip(recorded.values(), network(x)[1:]):
        each.gather()
        assert len(each) == WORLD
        torch.testing.assert_close(each.gates, gates.detach())
        torch.testing.assert_close(each.scores.softmax(-1), gates.detach())
    parallel.finish()


def test_two_processes_record_what_one_does():
    torch.multiprocessing.spawn(record, (free_port(),), nprocs=WORLD)


@pytest.fixture
def mesh():
    yield join(0, 1, free_port())
    parallel.finish()


def test_what_is_refused(mesh):
    router, xs = mpk.CrossConnect(4, 2, 2), [torch.randn(2, 4, 3, 3) for _ in range(2)]

    def spread(t, placement=None):
        return distribute_tensor(t, mesh, [placement or Shard(0)])

    distributed = distribute_module(copy.deepcopy(router), mesh)
    refused = [
        (router, [spread(x) for x in xs], "gate must be a DTensor on the mesh of all others"),
        (distributed, xs, "xs must be a DTensor on the mesh of all others"),
        (distributed, [spread(xs[0]), xs[1]], "xs must be a DTensor on the mesh of all others"),
        (distributed, [spread(x, Shard(1)) for x in xs], "replicated or split over the batch"),
    ]
    for module, paths, message in refused:
        with pytest.raises(NotImplementedError, match=f"cross_connect: .*{message}"):
            module(paths)
