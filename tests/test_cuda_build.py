"""What nvcc made of the CUDA C++ kernels: resources of every architecture, and wide accesses."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mpkernels.ops import native

LIBRARY = Path(native.__file__).parents[1] / "_C_cuda.so"
KERNELS = ("cross_connect_kernel", "cross_connect_backward_kernel", "gate_weights_kernel")
# A block of 512 threads finds 65,536 registers.
REGISTERS = 128


def dump(*options):
    triton = pytest.importorskip("triton")
    ours = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    tool = str(ours) if ours.exists() else shutil.which("cuobjdump")
    if tool is None or not LIBRARY.exists():
        pytest.skip(f"no cuobjdump, or no {LIBRARY.name}: {native.why_no_cuda}")
    done = subprocess.run([tool, *options, LIBRARY], capture_output=True, text=True, check=True)
    return done.stdout


def resources():
    """For each architecture the kernels, with registers, stack, shared and local bytes."""
    found, kernels, name = {}, [], ""
    for line in dump("--dump-resource-usage").splitlines():
        if match := re.search(r"\barch = (sm_\d+)", line):
            kernels = found.setdefault(match[1], [])
        elif match := re.search(r"Function (\S+):", line):
            name = match[1]
        elif "REG:" in line and any(kernel in name for kernel in KERNELS):
            pairs = re.findall(r"(\w+):(\d+)", line)
            kernels.append((name, {key: int(value) for key, value in pairs}))
    return found


def test_no_kernel_spills():
    found = resources()
    wanted = native.build_record()["cuda_architectures"].replace("+PTX", "").split(",")
    assert set(found) == {f"sm_{arch.replace('.', '')}" for arch in wanted}
    for arch, kernels in found.items():
        assert len(kernels) == 12 + 12 + 1, arch
        for name, use in kernels:
            assert use["STACK"] == use["LOCAL"] == 0, (arch, name, use)
            assert use["REG"] <= REGISTERS and use["SHARED"] <= 1024, (arch, name, use)


@pytest.mark.slow
def test_maps_are_moved_16_bytes_at_a_time():
    kernels = re.split(r"\n\s*Function : ", dump("--dump-sass"))[1:]
    # A name begins with that of its file, so that every kernel's speaks of cross_connect.
    routers = [kernel for kernel in kernels if re.match(rf"\S+({'|'.join(KERNELS[:2])})", kernel)]
    assert routers and len(routers) % 24 == 0
    for kernel in routers:
        name = kernel.split(None, 1)[0]
        assert re.search(r"LDGSTS\.E\S*\.128", kernel), name
        assert re.search(r"STG\.E\S*\.128", kernel) and re.search(r"LDS\S*\.128", kernel), name
        if "backward_kernel" in name:
            assert re.search(r"LDG\.E\S*\.128", kernel), name
        assert not re.search(r"\b(LDL|STL|RED|ATOM)", kernel), name
