"""ThreadSanitizer and AddressSanitizer pass the CUDA C++ kernels and catch planted errors."""

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
    """The exit status and the output, under setarch -R: ThreadSanitizer needs fixed addresses."""
    command = [SETARCH, "-R", program, *map(str, arguments)]
    # The first race is enough, and looking up its lines would take seconds.
    options = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1 symbolize=0"}
    result = subprocess.run(command, capture_output=True, text=True, env=options)
    return result.returncode, result.stdout + result.stderr


@pytest.fixture(scope="module")
def races(tmp_path_factory):
    return sanitized(tmp_path_factory.mktemp("races"), "thread")


def lines_calling(names):
    """Every (file, line) of the kernels that calls one of these functions."""
    return [
        (path.name, line)
        for path in sorted((driver.CSRC / "cuda").glob("*.cuh"))
        if path.name not in ("platform.cuh", "variants.cuh")
        for line, text in enumerate(path.read_text().splitlines(), 1)
        if re.match(rf"\s+({names})[(<]", text)
    ]


BARRIERS = lines_calling("sync_block|sync_cluster|leave_cluster|wait_cluster")


def test_the_kernels_have_no_race(races):
    assert run(races) == (0, "")
    assert len(BARRIERS) >= 20


@pytest.mark.parametrize(("file", "line"), BARRIERS, ids=str)
def test_a_missing_barrier_is_found(file, line, races):
    """Each barrier is skipped in turn. Some guard values, some the reuse of a buffer, some the
    memory of a block that others still read.
    """
    status, text = run(races, file, line)
    assert status == 66 and "data race" in text


@pytest.mark.parametrize(("file", "line"), lines_calling("sync_cluster"), ids=str)
def test_an_exchange_that_orders_no_memory_is_found(file, line, races):
    """Only what a thread has read may go without: all blocks still meet, but nothing is visible."""
    status, text = run(races, file, line, "relaxed")
    assert status == 66 and "data race" in text


@pytest.mark.parametrize(("file", "line"), lines_calling("wait_copies"), ids=str)
def test_a_missing_wait_for_copies_is_found(file, line, races):
    assert run(races, file, line)[0] != 0


@pytest.mark.slow
def test_addresses(tmp_path):
    program = sanitized(tmp_path, "address,undefined")
    status, text = run(program)
    assert status == 0, text
    status, text = run(program, 16)
    assert status != 0 and "heap-buffer-overflow" in text
    (line,) = (line for file, line in lines_calling("wait_cluster") if file == "cross_connect.cuh")
    status, text = run(program, "cross_connect.cuh", line)
    assert status != 0 and "use-after-poison" in text
