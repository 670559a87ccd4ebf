"""Every example runs and prints the result that it promises."""

import os
import subprocess
import sys

import pytest

from proof.where import ROOT

SHOWN = {
    "swap.py": "a state dict of the plain model loads into the fused one",
    "balance.py": "penalty 1.0",
    "export.py": "the loaded program gives the same for another batch size: True",
}


def test_every_example_is_listed():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_example(name, tmp_path):
    path = ROOT / "examples" / name
    assert len(path.read_text().splitlines()) < 60
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", str(path)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert SHOWN[name] in result.stdout
    if name == "balance.py":
        # A line ends in "outputs get 0.72 and 0.28 of the input".
        free, balanced = (
            [float(w) for w in line.split()[4:7:2]] for line in result.stdout.split("\n")[:2]
        )
        assert abs(balanced[0] - 0.5) < abs(free[0] - 0.5)
        assert abs(sum(free) - 1) <= 0.011  # two numbers rounded to two places
