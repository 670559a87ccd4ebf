"""`python -m benchmarks.host` measures every step of every contender."""

import re
import subprocess
import sys

import pytest

from proof.where import ROOT


@pytest.mark.slow
def test_host_time_is_measured_to_its_last_line():
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.host", "--rounds", "2"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for part in ("forward", "forward, recorded", "both", "one more"):
        rows = re.findall(rf"^\| {part} \|(.*)\|$", done.stdout, re.MULTILINE)
        assert [row.count("|") for row in rows] == [5, 5], done.stdout
    assert len(re.findall(r"^linear .* fused forward [\d.]+ x$", done.stdout, re.MULTILINE)) == 2
    assert len(re.findall(r"^CPU backend, .* [\d.]+ x$", done.stdout, re.MULTILINE)) == 2
