"""Triton without a GPU: the interpreter over the whole table, launches, rules, compiled code."""

import math
import os
import subprocess
import sys

import pytest
import torch

from mpkernels.ops.chip import ASSUMED as CHIP
from mpkernels.ops.flags import mask_of
from mpkernels.ops.layout import Geometry
from mpkernels.triton.launch import Card, Resident, Walk, combine_tile, cross_connect_launch
from proof.dispatched import Dispatched
from proof.where import INTERPRETED, ROOT

pytest.importorskip("triton", reason="triton is not installed")


def interpret(file):
    """Runs a test file in the interpreter; it and the compiler exclude each other in a process."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{file}"],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.skipif(INTERPRETED, reason="this is the process that the test starts")
@pytest.mark.parametrize(
    "file",
    [
        "operators/test_operators.py",
        "operators/test_semantics.py",
        "kernels/test_walks.py",
        "kernels/test_long_sums.py",
        "kernels/test_extremes.py",
        "kernels/test_traffic.py",
        "kernels/test_tune.py",
        "package/test_explain.py",
    ],
)
def test_in_the_interpreter(file):
    run = interpret(file)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and " failed" not in run.stdout


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("network", ["basecnn_3_cc", "resnet20_2_cc"])
def test_launches(network, channels_last):
    from proof.problems.networks import NETWORKS
    from proof.recorder import launches_of

    for router in NETWORKS[network]:
        forward, backward = launches_of(router, torch.float32, channels_last=channels_last)
        assert (len(forward), len(backward)) == (1, 2)
        assert forward[0].grid == backward[0].grid == (128,)  # a block keeps a sample
        frozen = launches_of(router, torch.float32, channels_last=channels_last, frozen=True)
        assert len(frozen[1]) == 1


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("network", ["basecnn_2_cp", "basecnn_4_cp"])
def test_launches_of_combine(network, channels_last):
    """One forward; of a backward the second adds what tiles left, if anything is to be added."""
    from proof.problems.networks import PREDICTED
    from proof.recorder import combine_launches_of

    for router in PREDICTED[network]:
        found = combine_launches_of(router, torch.float32, channels_last=channels_last)
        assert [len(direction) for direction in found] == [1, 2]
        least = 128 * router.outputs  # blocks: none is left without work by a card of 132
        assert all(math.prod(direction[0].grid) >= least for direction in found)
        _, frozen = combine_launches_of(router, torch.float32, 128, channels_last, frozen=True)
        tiles = math.prod(frozen[0].grid) // least
        assert len(frozen) == (1 if tiles == 1 else 2)


@pytest.mark.parametrize("of", ["cross_connect", "combine", "mix"])
@pytest.mark.parametrize("sizes", [(64, (8, 8)), (256, (14, 14)), (32, ())], ids=str)
def test_a_new_batch_compiles_nothing(sizes, of):
    """1 and multiples of 16, which Triton would make kernels of their own for, are no exception."""
    from proof.machine_code.aot import source
    from proof.machine_code.budgets import LAUNCHES
    from proof.problems.networks import Router

    found = {}
    for batch in (1, 2, 16, 129, 2048):
        for direction in LAUNCHES[of](Router("", *sizes, 2, 2), torch.float32, batch=batch):
            for index, launch in enumerate(direction):
                made = source(launch.kernel, launch.arguments, launch.constants)
                compiled = (made.signature, made.constants, made.attrs)
                name = launch.kernel.__name__, index if of == "mix" else 0
                assert found.setdefault(name, compiled) == compiled, (name, batch)


def test_large_batches_share_the_gradients_of_parameters():
    """A part of the batch is added by programs of its own, then the parts are, in order."""
    from proof.problems.networks import Router
    from proof.recorder import launches_of

    for batch, launches in ((128, 2), (129, 3), (2048, 3)):
        _, backward = launches_of(Router("", 64, (8, 8), 2, 2), torch.float32, batch=batch)
        assert len(backward) == launches and backward[0].grid == (batch,)
        parts, *further = backward[1].grid
        assert parts == -(-batch // 128) and math.prod(further) >= 32


def test_large_batches_share_the_parameters_of_combine():
    """In parts of 128 samples, of fewer where a sample leaves sums of many tiles."""
    from proof.problems.networks import Router
    from proof.recorder import combine_launches_of

    for width, batch, launches in ((8, 128, 2), (8, 129, 3), (224, 20, 2), (224, 21, 3)):
        router = Router("", 1, (width, width), 2, 2)
        _, backward = combine_launches_of(router, torch.float32, batch=batch)
        assert len(backward) == launches


@pytest.mark.parametrize("missing", [False, True], ids=["all", "missing"])
def test_mix_backward_fetches_nothing_from_the_host(missing):
    """A copy of indices would break the capture of a CUDA graph."""
    from mpkernels.triton import mix
    from proof.recorder import recorded_launches

    xs, gates = [torch.empty(2, 5, 3, 3) for _ in range(3)], torch.empty(2, 3, 3)
    grads = [xs[0], None, xs[2]] if missing else xs
    with recorded_launches() as launches, Dispatched() as dispatched:
        mix.mix_backward(grads, [], xs, gates, mask_of((True, not missing, True, True)))
    assert len(launches) == 1
    allocations = {"empty", "empty_strided", "new_empty", "new_empty_strided"}
    assert set(dispatched.names) <= allocations


def test_copies_are_those_that_explain_names():
    """A path of another format: one copy of it, and one of its gradient, out of the kernel."""
    import mpkernels as mpk
    from mpkernels.triton import cross_connect
    from proof.recorder import recorded_launches

    xs = [torch.empty(2, 5, 3, 3), torch.empty(2, 3, 3, 5).movedim(-1, 1)]
    parameters = [torch.empty(*s) for s in ((2, 16, 5), (2, 16), (2, 2, 16), (2, 2))]
    with recorded_launches(), Dispatched() as forward:
        *_, gates, pooled = cross_connect.cross_connect(xs, parameters, 0)
    grads, kept = [*[torch.empty(2, 5, 3, 3)] * 2, None], [gates, pooled]
    with recorded_launches(), Dispatched() as backward:
        cross_connect.cross_connect_backward(grads, kept, xs, parameters, 0, mask_of((True,) * 6))
    named = mpk.explain(mpk.CrossConnect(5, 2, 2), xs, device="cuda")
    copies = [run.names.count("copy_") for run in (forward, backward)]
    assert copies == [kernel.copies for kernel in named.kernels] == [1, 2]


H100, SMALL = Card(132, 50 * 2**20), Card(16, 2 * 2**20)


def rule(channels, positions, inputs, outputs=2, batch=128, card=H100, **rest):
    itemsize, last = rest.pop("itemsize", 4), rest.pop("last", positions == 1)
    geometry = Geometry(last, batch, channels, positions)
    return cross_connect_launch(geometry, inputs, outputs, 16, itemsize, card, **rest)


def test_tiles_of_combine():
    def tile(channels, positions, terms=0, itemsize=4, last=False):
        return combine_tile(Geometry(last, 128, channels, positions), itemsize, terms)

    assert tile(64, 256) == (8, 256, 4) and tile(64, 256, 2) == (16, 256, 8)
    assert tile(64, 256, last=True) == (32, 64, 4) and tile(64, 256, 2, last=True) == (128, 32, 8)
    assert tile(64, 256, 5) == (8, 256, 8)  # more terms are kept by as many threads
    assert tile(64, 256, 2, itemsize=8) == (8, 256, 8)
    assert tile(32, 1, last=True) == tile(32, 1, 4, last=True) == (1, 32, 1)  # a row of channels
    assert tile(32, 1024)[:2] == (4, 512) and tile(32, 1024, 1)[:2] == (4, 1024)
    assert tile(64, 589)[:2] == (16, 128) and tile(64, 3136, 2)[:2] == (8, 512)
    assert tile(64, 196)[:2] == (8, 256)  # nothing narrower fits better


def test_a_block_keeps_what_fits():
    assert rule(64, 64, 2) == Resident(64, 64, 8)
    assert rule(128, 64, 2) == Resident(128, 64, 8)
    assert rule(16, 1024, 2) == Resident(16, 1024, 8)
    assert rule(16, 1024, 2, last=True) == Resident(1024, 16, 8)
    assert rule(32, 256, 4, 4) == rule(32, 256, 4, 4, backward=True) == Resident(32, 256, 8)
    assert rule(13, 35, 3) == Resident(16, 64, 4)
    assert rule(32, 1, 2) == Resident(1, 32, 1)  # one warp keeps a vector
    assert rule(512, 1, 2) == Resident(1, 512, 8)  # w1 of both paths lies in 8
    assert rule(32, 256, 2, itemsize=8).method == "resident"
    assert rule(32, 256, 3, itemsize=8).method != "resident"  # float64 takes twice the registers
    assert rule(32, 256, 6, 4).method != "resident"  # would spill
    assert rule(1024, 1, 2).method != "resident"  # w1 alone would fill the block


def test_what_does_not_fit_is_walked():
    """Blocks own samples while L2 holds enough samples to keep the card busy."""
    streamed = rule(16, 1024, 4, 4)
    assert streamed.method == "streamed" and streamed.samples == 120  # 60 % of L2, and no more
    assert rule(16, 1024, 3, 3).samples == 132  # a whole wave, though 160 would fit
    assert rule(16, 1024, 4, 4, batch=8).method == "split"  # too few samples
    split = rule(64, 3136, 2)
    assert split.method == "split" and split.samples == 19  # 1.6 MB a sample
    assert rule(16, 1024, 4, 4, card=SMALL).method == "split"
    for launch in (
        rule(64, 3136, 2), rule(2048, 49, 2), rule(2048, 49, 2, last=True), rule(3, 50176, 1),
        rule(3, 1, 9), rule(70000, 1, 1), rule(5, 7, 8, 8, itemsize=8), rule(8, 9, 8, 8),
    ):  # fmt: skip
        if launch.method == "resident":
            continue
        chunks = launch.chunks
        for size in (chunks.channels, chunks.positions, chunks.walk):
            assert size & (size - 1) == 0
        assert chunks.channels * chunks.positions <= 2048 and 4 <= chunks.walk <= 2048


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_the_rule_never_takes_shared_memory(backward, itemsize):
    """Two passes were faster on an H100 in all but one of the cases where both were timed."""
    for sizes in ((64, 3136, 2), (128, 784, 2), (256, 196, 2), (512, 49, 2), (16, 1024, 4, 4)):
        for batch in (1, 32, 64, 2048):
            chosen = {"batch": batch, "itemsize": itemsize, "backward": backward}
            found = rule(*sizes, card=H100._replace(chip=CHIP), **chosen)
            assert isinstance(found, Walk) and found == rule(*sizes, **chosen)


@pytest.mark.parametrize("positions", [1, 49, 1024, 3136])
def test_chunks_do_not_depend_on_the_batch(positions):
    """Else a sample's result would."""
    found = {rule(512, positions, 3, 3, batch=b) for b in (1, 2, 128, 5000)}
    walks = {launch.chunks for launch in found if launch.method != "resident"}
    assert len(walks) <= 1
