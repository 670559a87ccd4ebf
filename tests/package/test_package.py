"""The installed package: what an import does, even without some parts, and its public names."""

import importlib.metadata

import pytest
import torch

import mpkernels as mpk
from mpkernels.ops import backend, native
from proof.fresh import PACKAGE, RUN_A_ROUTER, succeeds


def test_import_loads_neither_triton_nor_cuda():
    succeeds("""
        import sys
        import mpkernels as mpk
        import torch
        heavy = {"triton", "sklearn", "matplotlib", "torchvision", "models"}
        loaded = [name for name in sys.modules if name.partition(".")[0] in heavy]
        assert not loaded and "mpkernels.models" not in sys.modules, loaded
        assert not torch.cuda.is_initialized()
        mpk.CrossConnect(4, 1, 2)(torch.randn(2, 4, 3, 3))
        loaded = [name for name in sys.modules if name.partition(".")[0] in heavy]
        assert not loaded, loaded
    """)


def test_import_warns_of_nothing():
    result = succeeds("import warnings; warnings.simplefilter('error'); import mpkernels")
    assert result.stderr == ""


def test_without_triton():
    code = f"""
import sys
sys.modules["triton"] = None
import mpkernels as mpk
{RUN_A_ROUTER}
assert xs[0].grad is not None
try:
    with mpk.use_backend("triton"):
        router(xs)
except RuntimeError as error:
    assert "cannot run on CPU tensors: the package triton is not installed" in str(error), error
else:
    raise AssertionError("a forced backend that cannot run must raise")
print(mpk.explain(router, xs, device="cuda"))
"""
    result = succeeds(code)
    assert "the eager definition serves cross_connect" in result.stdout
    assert "the package triton is not installed" in result.stdout


@pytest.mark.skipif(
    backend.why_no_triton() is None and backend.triton_interprets(),
    reason="this process interprets Triton's kernels",
)
@pytest.mark.skipif(backend.why_no_triton() is not None, reason="triton is not installed")
def test_forced_triton_says_what_it_needs():
    with (
        mpk.use_backend("triton"),
        pytest.raises(RuntimeError, match="TRITON_INTERPRET=1 set before triton is imported"),
    ):
        mpk.functional.mix([torch.ones(2, 3)], torch.ones(2, 1, 1))


def test_the_extension_was_built():
    """The tests run where there is a compiler, so a missing library means a failed build."""
    assert native.why_no_cpu is None


def test_backends_nest():
    with mpk.use_backend("eager"):
        with mpk.use_backend("native"):
            assert backend.active_backend() == "native"
        assert backend.active_backend() == "eager"
    assert backend.active_backend() == "auto"
    try:
        mpk.use_backend("eager")
        assert backend.active_backend() == "eager"
    finally:
        mpk.use_backend("auto")


def test_version_is_in_one_place():
    try:
        installed = importlib.metadata.version("mpkernels")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed, only on the path")
    assert installed == mpk.__version__


def test_public_names():
    assert mpk.__all__ == [
        "CrossConnect",
        "CrossPredictConv2d",
        "CrossPredictLinear",
        "CrossStitch",
        "__version__",
        "decompositions",
        "eager",
        "explain",
        "functional",
        "fuse",
        "record",
        "route",
        "tune",
        "unfuse",
        "use_backend",
    ]
    assert all(hasattr(mpk, name) for name in mpk.__all__)
    assert all(getattr(mpk, name).__doc__ for name in mpk.__all__ if name != "__version__")


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()


DECISION = """
import runpy
import setuptools
setuptools.setup = lambda **options: None
print(runpy.run_path("setup.py")["why_no_cuda"]())
"""


def toolkit(folder, script):
    """A folder that looks like a CUDA toolkit, with `script` as its nvcc."""
    for name in ("bin/nvcc", "include/cuda_runtime.h"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


def test_a_toolkit_that_does_not_fit_torch_is_not_used(tmp_path):
    """torch refuses another major version, which would fail the build of the CPU kernels too."""
    if torch.version.cuda is None:
        pytest.skip("this torch takes no toolkit")
    fits = f"echo 'Cuda compilation tools, release {torch.version.cuda}, V{torch.version.cuda}.9'"
    cases = {
        fits: "None",
        "echo 'Cuda compilation tools, release 8.4, V8.4.131'": "nvcc 8.4 does not fit CUDA 1",
        "exit 3": "nvcc does not tell its version",
    }
    for index, (script, message) in enumerate(cases.items()):
        home = toolkit(tmp_path / str(index), script)
        result = succeeds(DECISION, path=PACKAGE.parent, CUDA_HOME=str(home))
        assert message in result.stdout, (script, result.stdout)
    result = succeeds(DECISION, path=PACKAGE.parent, CUDA_HOME=str(tmp_path / "none"))
    assert "no folder with bin/nvcc" in result.stdout
