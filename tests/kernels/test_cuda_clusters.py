"""How many clusters a card runs at a time, and what is taken where it runs few or none."""

import re
from ctypes import CDLL, c_int64

import pytest
import torch

import mpkernels as mpk
from mpkernels.ops import chip, onchip
from mpkernels.ops.chip import ASSUMED, Block, Chip, chip_of, h100
from mpkernels.ops.layout import Geometry
from mpkernels.ops.onchip import OnChip, forced_on_chip, on_chip
from proof.shim import driver

# Blocks of 99 KiB (bf16) or 197 KiB (fp32) in clusters of 8; twice as many of the latter.
MAPS, VAST = Geometry(False, 32, 64, 3136), Geometry(False, 32, 256, 3136)
HALF, SINGLE = (2, 2, 16, 2), (2, 2, 16, 4)
BATCHES = (1, 7, 32, 4096)


def of_parts(*parts):
    return h100(parts)


def running(**clusters):
    """A chip that runs so many clusters of these sizes at a time, and none of another."""
    return ASSUMED._replace(
        active_clusters=lambda block: clusters.get(f"of_{block.cluster}", 0),
    )


def cluster_of(*arguments):
    found = on_chip(*arguments)
    return found and found.cluster


def forced_cluster(*arguments):
    found = forced_on_chip(*arguments)
    return found if isinstance(found, str) else found.cluster


def test_an_assumed_card_has_room_for_most_of_its_blocks():
    def active(cluster, block_bytes, card=ASSUMED):
        return card.active_clusters(Block(False, 4, 2, cluster, 512, block_bytes))

    assert ASSUMED.multiprocessors == 132
    assert [active(cluster, 200_000) for cluster in (2, 4, 8, 16)] == [66, 32, 16, 8]
    assert [active(cluster, 100_000) for cluster in (2, 4, 8, 16)] == [132, 66, 32, 16]
    assert active(16, 200_000, of_parts(14, 14, 14)) == 0 and active(8, 1, of_parts(14)) == 3


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_a_cluster_that_leaves_the_chip_idle_gives_way(backward):
    """One block a multiprocessor, or two: as many blocks must run as are 60 % of those."""

    def choice(card, geometry=MAPS, sizes=HALF):
        return cluster_of(geometry, *sizes, card, backward)

    assert choice(ASSUMED) == choice(running(of_8=20)) == 8
    assert choice(running(of_8=19, of_4=20)) == choice(running(of_4=33)) == 4
    assert choice(running(of_4=19, of_8=19)) is choice(running(of_8=1)) is choice(running()) is None
    assert choice(running(of_4=19, of_8=19, of_16=10)) == 16
    assert choice(ASSUMED, sizes=SINGLE) == choice(running(of_8=10), sizes=SINGLE) == 8
    for card in (of_parts(*[14] * 8), running(of_8=9)):
        assert choice(card, sizes=SINGLE) is None
    assert choice(ASSUMED, VAST) == choice(of_parts(16), VAST) == 16
    assert choice(of_parts(*[14] * 8), VAST) is None  # smaller ones do not keep it


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_under_native_what_runs_at_all_is_better_than_an_error(backward):
    def choice(card, geometry=MAPS, sizes=HALF):
        return forced_cluster(geometry, *sizes, card, backward)

    assert choice(ASSUMED) == choice(running(of_8=1)) == 8
    assert choice(running(of_8=1, of_4=2)) == 4 == choice(running(of_4=1))
    assert choice(of_parts(*[14] * 8), sizes=SINGLE) == 8
    assert choice(of_parts(14), VAST).startswith("this GPU runs no cluster of 16 blocks with ")
    assert " or 16 blocks with " in choice(running())


def test_a_block_alone_is_not_asked_about():
    def never(block):
        raise AssertionError(block)

    small = Geometry(False, 32, 16, 256)
    assert cluster_of(small, *SINGLE, ASSUMED._replace(active_clusters=never)) == 1


@pytest.mark.parametrize(
    "card", [ASSUMED, of_parts(14), running(of_8=19, of_4=20), running()], ids=range(4)
)
def test_the_choice_is_the_same_for_every_batch(card):
    for geometry in (MAPS, VAST, MAPS._replace(channels_last=True)):
        for rule in (on_chip, forced_on_chip):
            for sizes in (HALF, SINGLE):
                found = {rule(geometry._replace(batch=b), *sizes, card, True) for b in BATCHES}
                assert len(found) == 1


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((2, 2, 16, 8), "float64 has no kernel"),
        ((5, 2, 16, 4), "5 maps would be kept, kernels keep up to 4"),
        ((2, 9, 16, 4), "kernels have up to 8 paths"),
    ],
)
def test_why_no_card_keeps_a_sample(sizes, reason):
    assert (
        forced_on_chip(MAPS, *sizes, ASSUMED) == reason and on_chip(MAPS, *sizes, ASSUMED) is None
    )


def test_why_this_card_keeps_none():
    assert forced_on_chip(MAPS._replace(positions=0), *HALF, ASSUMED) == "the maps are empty"
    assert forced_on_chip(MAPS, *HALF, None) == "the CUDA C++ library has no kernel for this GPU"
    alone = Chip(166912, 167936, 108, 1, lambda block: 0)
    needed = r"a block needs 80\d{4} bytes of shared memory, and has 166912"
    assert re.fullmatch(needed, forced_on_chip(MAPS, *HALF, alone))


@pytest.fixture
def cards(monkeypatch):
    """Two cards of one name, of which only the first has a place for a cluster; what was asked."""
    asked = []

    class Card:
        name, major, minor, multi_processor_count = "a card", 9, 0, 132
        shared_memory_per_block_optin, shared_memory_per_multiprocessor = ASSUMED[:2]

    def active_clusters_cuda(device, *block):
        asked.append((device, Block(*block)))
        return ASSUMED.active_clusters(Block(*block)) if device == 0 else 0

    monkeypatch.setattr(chip, "has_kernel", lambda *names: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    operators = type("Operators", (), {"active_clusters_cuda": staticmethod(active_clusters_cuda)})
    monkeypatch.setattr(torch.ops, "mpkernels", operators, raising=False)
    chip.chip_of.cache_clear(), chip._active_clusters.cache_clear()
    yield asked
    chip.chip_of.cache_clear(), chip._active_clusters.cache_clear()


def test_each_card_is_asked_once(cards):
    first, second = (chip_of(torch.device("cuda", index)) for index in (0, 1))
    for batch in BATCHES:
        geometry = MAPS._replace(batch=batch)
        assert cluster_of(geometry, *HALF, first) == 8
        assert on_chip(geometry, *HALF, second) is None
        assert isinstance(forced_on_chip(geometry, *HALF, second), str)
        assert cluster_of(geometry, *HALF, first, True) == 8
    assert len(cards) == len(set(cards)) and {device for device, _ in cards} == {0, 1}
    assert [block for device, block in cards if device == 0] == [
        Block(backward, 2, 2, 8, 256, on_chip(MAPS, *HALF, first, backward).bytes)
        for backward in (False, True)
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
def test_this_card_launches_what_the_rule_takes():
    here = chip_of(torch.device("cuda", 0))
    if here is None or here.cluster == 1:
        pytest.skip("this GPU or library has no clusters")
    for cluster in onchip.CLUSTERS[1:]:
        active = here.active_clusters(Block(False, 4, 2, cluster, 512, here.block_bytes))
        assert 0 <= active * cluster <= here.multiprocessors
    xs = [torch.randn(2, 64, 56, 56, device="cuda:0", requires_grad=True) for _ in range(2)]
    with mpk.use_backend("native"):
        ys = mpk.CrossConnect(64, 2, 2).cuda()(xs)
        sum(y.sum() for y in ys).backward()
    assert all(x.grad.isfinite().all() for x in xs)


def test_without_a_place_native_names_what_it_wanted(monkeypatch):
    monkeypatch.setattr(onchip, "chip_of", lambda device: running())
    xs, router = [torch.empty(2, 64, 56, 56)] * 2, mpk.CrossConnect(64, 2, 2)
    gate = [p.detach() for p in router.parameters()]
    wanted = (
        r"\[64, 56, 56\] of torch.float32 in shared memory: this GPU runs no cluster of 8 blocks"
    )
    with pytest.raises(RuntimeError, match=wanted):
        onchip.cross_connect(xs, gate, 0)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    if driver.compiler() is None:
        pytest.skip("no g++")
    folder, include = tmp_path_factory.mktemp("clusters"), f"-I{driver.HERE / 'runtime'}"
    library = CDLL(str(driver.build(folder, "-O1", include, sources=("clusters.cpp",))))

    def call(name, *arguments):
        function = getattr(library, name)
        function.restype = c_int64
        return function(*map(c_int64, arguments))

    return call


LIMIT = 232448


@pytest.mark.parametrize("clusters", [0, 1, 5])
def test_cuda_is_asked_after_it_was_told_what_the_kernel_needs(clusters, runtime):
    """Else the answer were an error for more than 48 KiB, and for clusters of 16."""
    kernel = 100 + clusters
    runtime("make_current", 0, LIMIT, clusters)
    for cluster in (2, 8, 16):
        assert runtime("active_clusters", kernel, cluster, 201440) == clusters
    assert runtime("active_clusters", kernel, 8, LIMIT + 16) == 0
    assert runtime("last_error") == 0  # nor does the next launch find it


def test_what_a_kernel_was_given_it_keeps_on_each_device(runtime):
    """Another thread may be between its own call and its launch."""
    for device in (0, 1):
        runtime("make_current", device, LIMIT, 8)
        assert runtime("allow", 1, 16, 200_000) == runtime("allow", 1, 2, 60_000) == 0
        assert runtime("allowed_bytes", 1) == 200_000
        before = runtime("attributes_set")
        assert runtime("allow", 1, 16, 200_000) == 0 and runtime("attributes_set") == before
        assert runtime("allow", 1, 2, LIMIT + 1) != 0 and runtime("allowed_bytes", 1) == 200_000


class OutOfMemory(Exception):
    """In the place of torch's."""


def test_a_tuned_launch_without_memory_says_so_as_torch_does(monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    from mpkernels.triton import cross_connect as launcher

    def fails(*arguments):
        raise RuntimeError("mpkernels: torch did not allocate 64 bytes on the device")

    def empty(size, **named):
        raise OutOfMemory

    xs, gate = [torch.ones(1, 4, 2, 2)] * 2, list(mpk.CrossConnect(4, 2, 2).parameters())
    library = torch.library.Library("mpkernels", "IMPL")
    library.impl("cross_connect_cuda", fails, "CPU")
    monkeypatch.setattr(onchip.torch, "empty", empty)
    with launcher.forced(OnChip(2, 1000)), torch.no_grad(), pytest.raises(OutOfMemory):
        launcher.cross_connect(xs, gate, 0)
