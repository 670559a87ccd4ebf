"""A driver that is older than the CUDA library: named, and without an error."""

import json
import shutil
import subprocess

import pytest
import torch

from mpkernels.ops import native
from proof.fresh import PACKAGE, python

BUILT_FOR = native.build_record().get("cuda_toolkit", "")
pytestmark = pytest.mark.skipif(
    torch.version.cuda is None or not BUILT_FOR or native.why_no_cuda is not None,
    reason=f"CUDA C++ is not loaded here: {native.why_no_cuda}",
)
IMPORTS = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import mpkernels as mpk
from mpkernels import report
from mpkernels.ops import backend, native
from mpkernels.ops.chip import chip_of
import torch
with mpk.use_backend("native"):
    xs = [torch.empty(2, 4, 3, 3, device="meta")] * 2
    explained = str(mpk.explain(mpk.CrossConnect(4, 2, 2), xs, device="cuda"))
print(json.dumps({
    "warnings": [str(w.message) for w in caught if "mpkernels" in str(w.message)],
    "why_not": backend.why_not("cross_connect", "native", "cuda"),
    "report": dict(report.libraries())["library _C_cuda"],
    "explain": explained,
    "chip": chip_of(torch.device("cuda", 0)) if native.why_no_cuda else "not asked",
}))
"""


def found_with(folder, answer):
    """What a fresh process says whose driver, a library that does nothing else, answers so."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C compiler")
    source = folder / "driver.c"
    source.write_text(f"int cuDriverGetVersion(int *version) {{ {answer} }}\n")
    driver = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-o", driver, source], check=True)
    done = python(IMPORTS, path=PACKAGE.parent, LD_LIBRARY_PATH=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def version(major, minor):
    return f"*version = {1000 * major + 10 * minor}; return 0;"


MAJOR = int(BUILT_FOR.partition(".")[0] or 0)


def test_a_driver_of_an_older_cuda_is_named(tmp_path):
    found = found_with(tmp_path, version(MAJOR - 1, 4))
    reason = f"CUDA driver {MAJOR - 1}.4 is older than the CUDA {BUILT_FOR}"
    reason = f"{reason} that the library was built for"
    (warning,) = found["warnings"]
    assert "runs without its CUDA C++ kernels" in warning and reason in warning
    assert found["why_not"] == found["report"] == reason
    assert (
        f"RuntimeError from cross_connect and cross_connect_backward: {reason}"
        in (found["explain"])
    )
    assert found["chip"] is None


@pytest.mark.parametrize(
    "answer",
    [version(MAJOR, 0), version(MAJOR, 9), version(MAJOR + 1, 0), "return 34;"],
    ids=["same", "newer", "next", "stub"],
)
def test_other_drivers_and_none_are_no_news(answer, tmp_path):
    """Within a major version CUDA's older drivers run what was built for its newer toolkits."""
    found = found_with(tmp_path, answer)
    assert found["warnings"] == [] and found["why_not"] is None and found["report"] == "loaded"


@pytest.mark.parametrize("built_for", ["", "unknown"])
def test_a_record_that_does_not_tell_its_cuda(built_for, monkeypatch):
    monkeypatch.setattr(native, "build_record", lambda: {"cuda_toolkit": built_for})
    monkeypatch.setattr(native, "_driver_version", lambda: (1, 0))
    assert native._why_old_driver() is None
