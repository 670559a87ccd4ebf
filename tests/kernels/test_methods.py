"""`explain` names the method that a launcher takes on a GPU, and why it walks a sample."""

import re
import sys

import pytest
import torch

import mpkernels as mpk
from mpkernels.ops import native, onchip
from mpkernels.ops.chip import ASSUMED
from mpkernels.ops.layout import geometry_of
from proof.explained import maps

pytest.importorskip("triton", reason="triton is not installed")
EXPLAIN = sys.modules["mpkernels.explain"]  # the name in the package is the function's
NO_LIBRARY = pytest.mark.skipif(native.why_no_cuda is not None, reason="no library of CUDA C++")


def launched_on_gpu(channels, size, inputs, outputs, batch, dtype=torch.float32):
    """The methods that the launchers choose, by the names of the kernels that they launch."""
    from proof.problems.networks import Router
    from proof.recorder import launches_of

    sides = launches_of(Router("", channels, (size, size), inputs, outputs), dtype, batch=batch)
    return [side[0].kernel.__name__.partition("_")[0] for side in sides]


GEOMETRIES = [
    (64, 8, 2, 2, 8, torch.float32), (32, 32, 2, 2, 128, torch.float32),
    (64, 56, 2, 2, 8, torch.float32), (16, 32, 1, 3, 8, torch.float32),
    (16, 32, 3, 1, 8, torch.float32), (512, 7, 2, 2, 4, torch.float32),
    (16, 32, 2, 2, 2, torch.float32), (16, 32, 2, 2, 2, torch.float64),
    (16, 32, 2, 2, 2, torch.bfloat16), (2048, 1, 1, 2, 8, torch.float32),
]  # fmt: skip


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_method_is_that_of_the_kernel_launched(geometry, no_poison):
    channels, size, inputs, outputs, batch, dtype = geometry
    xs = [torch.empty(batch, channels, size, size, dtype=dtype, device="meta")] * inputs
    router = mpk.CrossConnect(channels, inputs, outputs, dtype=dtype)
    explained = mpk.explain(router, xs, device="cuda")
    methods = launched_on_gpu(*geometry)
    assert [kernel.method for kernel in explained.kernels] == methods
    walks = [n for n in explained.notes if " walks a sample twice: " in n]
    assert len(walks) == sum(method != "resident" for method in methods)
    for kernel in explained.kernels:
        kept = outputs if kernel.operator.endswith("_backward") else inputs
        full = kept * channels * size**2 * (2 if dtype == torch.float64 else 1)
        why = [n for n in walks if n.startswith(f"{kernel.operator} ")]
        if why and channels < 2048:
            words = re.search(r"(\d+) of its maps, padded, take (\d+) reg.* has (\d+)$", why[0])
            count, taken, most = map(int, words.groups())
            assert count == kept and taken >= full and taken > most
        elif why:
            w1 = f"w1, {inputs} x 16 x {channels}"
            assert why[0].endswith(f"{w1}, does not fit beside the maps")


def test_a_block_has_the_registers_that_are_named(no_poison):
    """One map less is kept, in both layouts of rows: those that start at 16 bytes or anywhere."""
    for channels, size, most in ((16, 16, 32768), (64, 7, 16384)):
        taken = channels * (256 if size == 16 else 64)
        fits = most // taken
        assert launched_on_gpu(channels, size, fits, 1, 2)[0] == "resident"
        assert launched_on_gpu(channels, size, fits + 1, 1, 2)[0] != "resident"
        router = mpk.CrossConnect(channels, fits + 1, 1)
        xs = maps(fits + 1, channels, size, device="meta")
        text = f"{fits + 1} of its maps, padded, take {taken * (fits + 1)} registers"
        assert f"{text}, a block has {most}" in str(mpk.explain(router, xs, device="cuda"))


def test_the_weights_are_the_reason_where_the_maps_fit(no_poison):
    """The same maps are kept with fewer hidden units."""
    for hidden, method in ((16, "split"), (4, "resident")):
        xs = [torch.empty(8, 2048, device="meta")]
        router = mpk.CrossConnect(2048, 1, 2, hidden=hidden)
        explained = mpk.explain(router, xs, device="cuda")
        assert [kernel.method for kernel in explained.kernels] == [method] * 2
        why = f"w1, 1 x {hidden} x 2048, does not fit beside the maps"
        assert (why in str(explained)) == (method == "split")


def test_what_tune_chose_is_said(monkeypatch):
    """The launchers ask the same function, which tests/kernels/test_tune.py tests."""
    from mpkernels.triton.launch import Walk, chunks_of

    chosen = {
        False: Walk("streamed", 132, chunks_of(geometry_of(maps()[0]), 16, 4)),
        True: onchip.OnChip(2, 1000),
    }
    monkeypatch.setattr(EXPLAIN, "launch_for", lambda *arguments: chosen[arguments[-1]])
    explained = mpk.explain(mpk.CrossConnect(4, 2, 2), maps(), device="cuda")
    assert [kernel.method for kernel in explained.kernels] == ["streamed", "cluster"]
    assert "cross_connect walks a sample twice: mpkernels.tune found that faster" in explained.notes
    assert "cross_connect_backward: CUDA C++ (cluster)" in str(explained)


@NO_LIBRARY
@pytest.mark.parametrize(
    "sizes", [(32, 16, 2, 2), (64, 56, 2, 2), (16, 32, 1, 3), (16, 32, 3, 1), (2048, 56, 2, 2)]
)
def test_the_method_of_cuda_cpp_is_the_cluster_launched(sizes, monkeypatch, no_poison):
    channels, size, inputs, outputs = sizes
    clusters = []

    def record(*arguments):
        clusters.append(arguments[-1])
        return []

    library = torch.library.Library("mpkernels", "IMPL")
    library.impl("cross_connect_cuda", record, "CPU")
    library.impl("cross_connect_backward_cuda", record, "CPU")
    monkeypatch.setattr(onchip, "chip_of", lambda device: ASSUMED)
    router = mpk.CrossConnect(channels, inputs, outputs)
    xs = [torch.empty(1, channels, size, size) for _ in range(inputs)]
    grads, kept = [*xs[:1] * outputs, None], [torch.empty(1), torch.empty(1)]
    with mpk.use_backend("native"):
        explained = mpk.explain(router, xs, device="cuda")
    gate = [p.detach() for p in router.parameters()]
    launches = (
        lambda: onchip.cross_connect(xs, gate, 0),
        lambda: onchip.cross_connect_backward(grads, kept, xs, gate, 0, 1),
    )
    for kernel, launch in zip(explained.kernels, launches, strict=True):
        note = f"RuntimeError from {kernel.operator}: no shared memory keeps a sample: "
        reasons = [n.removeprefix(note) for n in explained.notes if n.startswith(note)]
        assert kernel.backend == "native" and bool(reasons) == (channels == 2048)
        if channels == 2048:
            assert kernel.method is None
            with pytest.raises(RuntimeError, match=f"in shared memory: {re.escape(*reasons)}"):
                launch()
            continue
        launch()
        assert kernel.method == ("shared" if clusters.pop() == 1 else "cluster")
        assert f"{kernel.operator}: CUDA C++ ({kernel.method})" in str(explained)
