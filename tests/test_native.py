"""The compiled libraries: every instruction set, and the CUDA kernel's body on a CPU."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from cases import CASES
from test_operators import test_cross_connect, test_mix

import mpkernels as mpk
from mpkernels.ops import native

CSRC = Path(__file__).parents[1] / "csrc"
CHOSEN = [
    c
    for c in CASES
    if c.name.startswith(("float", "bfloat", "2_to", "8_to", "hidden", "layout_ch"))
]


def sets():
    return native.build_record().get("instruction_sets", [])


@pytest.fixture(params=sets())
def instruction_set(request):
    choose = torch.ops.mpkernels.instruction_set
    try:
        chosen = choose(request.param)
    except RuntimeError:
        pytest.skip(f"this processor has no {request.param}")
    yield chosen
    choose("best")


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_every_instruction_set(case, instruction_set):
    with mpk.use_backend("native"):
        assert torch.ops.mpkernels.instruction_set("") == instruction_set
        test_cross_connect(case, "native")
        test_mix(case, True, "native")
        test_mix(case, False, "native")


def test_the_widest_instruction_set_is_in_use():
    from mpkernels import _build

    assert torch.ops.mpkernels.instruction_set("") == _build.info()["instruction_set"]
    with pytest.raises(RuntimeError, match="instruction set mmx was not compiled"):
        torch.ops.mpkernels.instruction_set("mmx")


HARNESS = """
#define MPK_DEVICE inline
#include "cuda/mix.cuh"
extern "C" void mix(const mpk::cuda::MixArguments* p, int wide) {
  const int64_t size = p->batch * p->rows * p->cols;
  for (int64_t at = 0; at < size; at++)
    wide ? mpk::cuda::mix_element<double, double>(*p, at)
         : mpk::cuda::mix_element<float, float>(*p, at);
}
"""


@pytest.fixture(scope="module")
def cuda_body(tmp_path_factory):
    """The CUDA kernel's body, compiled for the CPU: one call an element stands for one thread."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    import ctypes

    folder = tmp_path_factory.mktemp("cuda")
    (folder / "mix.cpp").write_text(HARNESS)
    library = folder / "mix.so"
    flags = ["-O1", "-std=c++20", "-fPIC", "-shared", "-Wno-unknown-pragmas", f"-I{CSRC}"]
    subprocess.run([compiler, *flags, "-o", library, folder / "mix.cpp"], check=True)
    return ctypes.CDLL(str(library)).mix


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("m", "n"), [(1, 2), (2, 2), (3, 5), (8, 8)])
def test_the_body_of_the_cuda_mix(m, n, dtype, channels_last, by_channel, cuda_body):
    import ctypes

    from mpkernels.ops.layout import geometry_of, strides_in_place

    class Map(ctypes.Structure):
        _fields_ = [("data", ctypes.c_void_p), ("batch", ctypes.c_int64), ("row", ctypes.c_int64)]

    class Gates(ctypes.Structure):
        _fields_ = [
            ("data", ctypes.c_void_p),
            ("strides", ctypes.c_int64 * 4),
            ("by_channel", ctypes.c_bool),
        ]

    class Arguments(ctypes.Structure):
        _fields_ = [
            ("xs", Map * 8),
            ("ys", Map * 8),
            ("gates", Gates),
            ("sizes", ctypes.c_int64 * 3),
            ("paths", ctypes.c_int * 2),
            ("channels_last", ctypes.c_bool),
        ]

    xs = [torch.randn(3, 5, 4, 7, dtype=dtype) for _ in range(m)]
    if channels_last:
        xs = [x.contiguous(memory_format=torch.channels_last) for x in xs]
    gates = torch.randn((3, m, n, 5) if by_channel else (3, m, n), dtype=dtype)
    ys = [torch.full_like(xs[0], float("nan")) for _ in range(n)]
    geometry = geometry_of(xs[0])

    def maps(tensors):
        found = (Map * 8)()
        for at, t in enumerate(tensors):
            strides = strides_in_place(t, geometry)
            found[at] = Map(t.data_ptr(), strides.batch, strides.row)
        return found

    strides = (*gates.stride(), 0)[:4]
    arguments = Arguments(
        maps(xs),
        maps(ys),
        Gates(gates.data_ptr(), (ctypes.c_int64 * 4)(*strides), by_channel),
        (ctypes.c_int64 * 3)(geometry.batch, geometry.rows, geometry.cols),
        (ctypes.c_int * 2)(m, n),
        geometry.channels_last,
    )
    cuda_body(ctypes.byref(arguments), int(dtype == torch.float64))
    roundoff = torch.finfo(dtype).eps
    weights = gates.unsqueeze(-1).unsqueeze(-1) if by_channel else gates[..., None, None, None]
    for j, y in enumerate(ys):
        terms = torch.stack([weights[:, i, j].double() * x.double() for i, x in enumerate(xs)])
        bound = (m + 2) * roundoff * terms.abs().sum(0)
        assert ((y.double() - terms.sum(0)).abs() <= bound).all()


@pytest.mark.skipif(native.why_no_cuda is not None, reason=f"{native.why_no_cuda}")
def test_the_cuda_library_registers_its_operator():
    assert torch._C._dispatch_has_kernel_for_dispatch_key("mpkernels::mix_cuda", "CUDA")
