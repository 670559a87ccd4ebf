"""ThreadSanitizer and AddressSanitizer over the CUDA C++ kernels, and what they find if planted."""

import os
import platform
import re
import shutil
import subprocess

import pytest

from proof.shim import driver

SETARCH = shutil.which("setarch")
pytestmark = pytest.mark.skipif(
    driver.compiler() is None or SETARCH is None or platform.machine() != "x86_64",
    reason="needs g++, its sanitizers for x86-64 and setarch",
)


def sanitized(folder, kind):
    """Tiny grids of all kernels: dense and odd, NCHW and channels_last, clusters of 1 and 3."""
    flags = ("-O1", "-g", f"-fsanitize={kind}", "-fPIE", "-pie", "-DSHIM_KEPT=2")
    return driver.build(folder, *flags, sources=("races.cpp",))


def run(program, *arguments):
    """Exit status and what was printed; ThreadSanitizer wants addresses where it expects them."""
    command = [SETARCH, "-R", program, *map(str, arguments)]
    # The first race is enough, and its lines need not be looked up: that takes seconds.
    options = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1 symbolize=0"}
    done = subprocess.run(command, capture_output=True, text=True, env=options)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def races(tmp_path_factory):
    return sanitized(tmp_path_factory.mktemp("races"), "thread")


def places(words):
    """Every line of the kernels that says one of these words."""
    return [
        (path.name, line)
        for path in sorted((driver.CSRC / "cuda").glob("*.cuh"))
        if path.name not in ("platform.cuh", "variants.cuh")
        for line, text in enumerate(path.read_text().splitlines(), 1)
        if re.match(rf"\s+({words})[(<]", text)
    ]


BARRIERS = places("sync_block|sync_cluster|arrive_cluster|wait_cluster")


def test_the_kernels_have_no_race(races):
    assert run(races) == (0, "")
    assert len(BARRIERS) >= 20


@pytest.mark.parametrize(("file", "line"), BARRIERS, ids=str)
def test_a_missing_barrier_is_found(file, line, races):
    """Each is left out in turn: some guard values, some the reuse of a buffer, some the memory of
    a block that others still read. All are needed, and seen to be.
    """
    status, text = run(races, file, line)
    assert status == 66 and "data race" in text


@pytest.mark.parametrize(("file", "line"), places("wait_copies"), ids=str)
def test_a_missing_wait_for_copies_is_found(file, line, races):
    assert run(races, file, line)[0] != 0


@pytest.mark.slow
def test_addresses(tmp_path):
    program = sanitized(tmp_path, "address,undefined")
    status, text = run(program)
    assert status == 0, text
    status, text = run(program, 16)
    assert status != 0 and "heap-buffer-overflow" in text
    (line,) = (line for file, line in places("wait_cluster") if file == "cross_connect.cuh")
    status, text = run(program, "cross_connect.cuh", line)
    assert status != 0 and "use-after-poison" in text
