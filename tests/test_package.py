"""The package imports, and tells what it has, with any of its parts missing."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

import mpkernels as mpk
from mpkernels.ops import native

PACKAGE = Path(mpk.__file__).parent


def python(code, *, path=None, **environment):
    """Runs code in a fresh interpreter, with `path` in front of what it imports."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TRITON_INTERPRET")}
    env.update(environment)
    env["PYTHONPATH"] = str(path or PACKAGE.parent)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=env,
        cwd=path,  # "-c" looks in the working directory first
    )


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, to take parts away from."""
    shutil.copytree(PACKAGE, tmp_path / "mpkernels", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


USE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import mpkernels as mpk
import torch
caught = [w for w in caught if "mpkernels" in str(w.message)]
for w in caught:
    print(w.category.__name__, str(w.message))
router = mpk.CrossConnect(4, 2, 2)
xs = [torch.randn(3, 4, 5, 5, requires_grad=True) for _ in range(2)]
found = router(xs)
sum(y.sum() for y in found).backward()
wanted = mpk.unfuse(router)(xs)
print(len(caught), max((f - w).abs().max().item() for f, w in zip(found, wanted)) < 1e-5)
"""


def test_import_is_lean():
    run = python(
        "import sys, mpkernels, torch\n"
        "assert not any(m == 'triton' or m.startswith('triton.') for m in sys.modules)\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert not any(m.startswith(('sklearn', 'matplotlib', 'models')) for m in sys.modules)"
    )
    assert run.returncode == 0, run.stderr


def test_without_triton(copy):
    (copy / "triton.py").write_text("raise ImportError('hidden')\n")
    run = python(USE, path=copy)
    assert run.returncode == 0 and run.stdout.split() == ["0", "True"], run.stdout + run.stderr


def test_without_the_extension(copy):
    for library in (copy / "mpkernels").glob("*.so"):
        library.unlink()
    run = python(USE, path=copy)
    assert run.returncode == 0, run.stderr
    warning, last = run.stdout.strip().splitlines()
    assert last == "1 True"
    assert warning.startswith("RuntimeWarning mpkernels runs on its eager definition")
    assert "_C.so is not there" in warning and "C++20 compiler" in warning


def test_with_a_library_that_does_not_load(copy):
    (copy / "mpkernels" / "_C.so").write_bytes(b"not a library")
    run = python(USE, path=copy)
    assert run.returncode == 0, run.stderr
    warning, last = run.stdout.strip().splitlines()
    assert last == "1 True"
    assert f"does not load into torch {torch.__version__}" in warning
    assert f"built on {native.build_record()['platform']}" in warning and "torch >= 2.11" in warning


def test_a_failed_build_is_recorded(copy):
    (copy / "mpkernels" / "_C.so").unlink()
    record = copy / "mpkernels" / "build.json"
    record.write_text('{"missing": {"_C": "ninja: no such file"}}')
    assert "_C.so is not there: ninja: no such file" in python(USE, path=copy).stdout


@pytest.mark.parametrize(
    ("backend", "hide", "reason"),
    [
        ("native", "_C.so", "_C.so is not there"),
        ("triton", None, "TRITON_INTERPRET=1 set before triton is imported"),
        ("triton", "triton", "the package triton is not installed"),
    ],
)
def test_a_forced_backend_that_cannot_run_says_why(backend, hide, reason, copy):
    hidden = "import sys; sys.modules['triton'] = None\n" if hide == "triton" else ""
    if hide == "_C.so":
        (copy / "mpkernels" / hide).unlink()
    run = python(
        hidden + "import warnings; warnings.simplefilter('ignore')\n"
        "import torch, mpkernels as mpk\n"
        f"with mpk.use_backend('{backend}'):\n"
        "    try: mpk.CrossConnect(4, 1, 2)(torch.randn(2, 4))\n"
        "    except RuntimeError as error: print(error)\n"
        "mpk.CrossConnect(4, 1, 2)(torch.randn(2, 4))\n",
        path=copy,
    )
    assert run.returncode == 0, run.stderr
    if backend == "triton" and hide is None and "not installed" in run.stdout:
        pytest.skip("triton is not installed")
    assert f"use_backend('{backend}') cannot run on CPU tensors" in run.stdout
    assert reason in run.stdout


def test_the_extension_was_built():
    """Where the tests run, a compiler is there: falling back would be a failed build."""
    assert native.why_no_cpu is None


def test_backends_nest():
    from mpkernels.ops.backend import active_backend

    with mpk.use_backend("eager"):
        with mpk.use_backend("native"):
            assert active_backend() == "native"
        assert active_backend() == "eager"
    assert active_backend() == "auto"
    mpk.use_backend("eager")
    assert active_backend() == "eager"
    mpk.use_backend("auto")


def test_public_names_and_version():
    assert sorted(mpk.__all__) == sorted(
        ["CrossConnect", "CrossStitch", "__version__", "eager", "explain", "functional", "fuse",
         "unfuse", "use_backend"]
    )  # fmt: skip
    assert all(hasattr(mpk, name) for name in mpk.__all__)
    assert (PACKAGE / "py.typed").exists()
    try:
        assert version("mpkernels") == mpk.__version__
    except PackageNotFoundError:
        pytest.skip("run from a checkout that is not installed")
