"""The CUDA C++ kernels as nvcc compiled them: resources per architecture, and wide accesses."""

import re

import pytest

from benchmarks.gpu.resources import KERNELS, dump, resources, table
from mpkernels.ops import native
from proof.where import ROOT

# A block of 512 threads shares 65,536 registers.
REGISTERS = 128


def or_skip(function, *arguments):
    """The result of the call; skips the test where the library was not built."""
    try:
        return function(*arguments)
    except RuntimeError as reason:
        pytest.skip(str(reason))


def test_no_kernel_spills():
    by_arch = or_skip(resources)
    archs = native.build_record()["cuda_architectures"].replace("+PTX", "").split(",")
    assert set(by_arch) == {f"sm_{arch.replace('.', '')}" for arch in archs}
    for arch, kernels in by_arch.items():
        assert len(kernels) == 12 + 12 + 1, arch
        for name, use in kernels:
            assert use["STACK"] == use["LOCAL"] == 0, (arch, name, use)
            assert use["REG"] <= REGISTERS and use["SHARED"] <= 1024, (arch, name, use)


@pytest.mark.slow
def test_maps_are_moved_16_bytes_at_a_time():
    kernels = re.split(r"\n\s*Function : ", or_skip(dump, "--dump-sass"))[1:]
    # A mangled name begins with the file's name, so every kernel's contains cross_connect.
    routers = [kernel for kernel in kernels if re.match(rf"\S+({'|'.join(KERNELS[:2])})", kernel)]
    assert routers and len(routers) % 24 == 0
    for kernel in routers:
        name = kernel.split(None, 1)[0]
        assert re.search(r"LDGSTS\.E\S*\.128", kernel), name
        assert re.search(r"STG\.E\S*\.128", kernel) and re.search(r"LDS\S*\.128", kernel), name
        if "backward_kernel" in name:
            assert re.search(r"LDG\.E\S*\.128", kernel), name
        assert not re.search(r"\b(LDL|STL|RED|ATOM)", kernel), name


# From the memory of another block of the cluster: no other load is generic.
REMOTE = r"(?P<remote>LD\.E)"
STEPS = rf"(?P<fence>MEMBAR)|(?P<arrive>UCGABAR_ARV)|(?P<wait>UCGABAR_WAIT)|{REMOTE}|(?P<store>STG)"


@pytest.mark.slow
def test_no_fence_waits_for_a_store_and_the_last_arrival_has_none():
    """A store would be on its way to memory as long as the kernel has computed since."""
    with_clusters = 0
    for kernel in re.split(r"\n\s*Function : ", or_skip(dump, "--dump-sass"))[1:]:
        steps = [match.lastgroup for match in re.finditer(rf"\s(?:{STEPS})", kernel)]
        if "arrive" not in steps:
            continue
        with_clusters, name = with_clusters + 1, kernel.split(None, 1)[0]
        last = len(steps) - 1 - steps[::-1].index("arrive")
        before, after = steps[:last], steps[last:]
        # channels_last meets once more: each meeting has its fence, and leaving has none.
        assert (before.count("fence"), before.count("arrive"), before.count("wait")) == (2, 2, 2), (
            name
        )
        assert "remote" in before and "store" not in before, name
        assert "store" in after and not {"fence", "remote"} & {*after}, name
        assert after[1:].count("wait") == 1, name
    assert with_clusters and with_clusters % 24 == 0


def test_the_table_of_resources_is_what_its_command_prints():
    printed = or_skip(table)
    record = native.build_record()
    if record.get("cuda_architectures") != "8.0,9.0,10.0+PTX":
        pytest.skip("built for other architectures")
    assert printed in (ROOT / "docs" / "internals" / "kernels.md").read_text()
