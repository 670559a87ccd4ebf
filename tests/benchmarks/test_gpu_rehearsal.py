"""The GPU report on a fake GPU: the real command runs, and compiles kernels without launching."""

import os
import subprocess
import sys

import pytest

from proof.where import INTERPRETED, ROOT

if INTERPRETED:
    pytest.skip("runs in the other process", allow_module_level=True)

from benchmarks.gpu import rows, tables

pytest.importorskip("triton")


def rehearse(folder, *options, **variables):
    """The exit status, the output and the rows of a rehearsal."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.rehearsal", "--out", folder, *options],
        capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **variables}, timeout=1800,
    )  # fmt: skip
    report_rows = rows.read(folder / "rows.jsonl")
    return result.returncode, result.stdout + result.stderr, report_rows


def test_every_step_runs_to_its_last_line(tmp_path):
    """These steps run for one router; the slow tests run the other steps."""
    steps = ("correctness", "routers", "compiled")
    options = ("--only", *steps, "--filter", "[32] 3->3 ")
    status, output, report_rows = rehearse(tmp_path, *options)
    assert status == 0, output
    assert {row["step"] for row in report_rows} == {"environment", *steps}
    page = (tmp_path / "page.md").read_text()
    assert "a card that is not there" in page and "## Routers" in page and "torch.compile" in page


@pytest.mark.slow
def test_launches_networks_and_host_time_run_to_their_last_line(tmp_path):
    steps = ("launches", "host", "networks", "compiled_networks")
    status, output, report_rows = rehearse(tmp_path, "--only", *steps, "--seconds", "1500")
    assert status == 0, output
    assert tables.never_launched(report_rows) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "state", "why"),
    [
        ("exception", "failed", "RuntimeError: planted"), ("wrong", "wrong", "7 bounds"),
        ("death", "failed", "status -6"), ("hang", "timed out", "no answer"),
    ],
)  # fmt: skip
def test_what_goes_wrong_costs_its_own_rows(tmp_path, kind, state, why):
    """A fault in mix fails its own rows, and all others are done."""
    options = ("--only", "launches", "--filter", "channel")
    status, output, report_rows = rehearse(tmp_path, *options, PLANTED=kind, SLOWER="4")
    assert status == 1 and f"{state}: " in output
    planted = [row for row in report_rows if row["case"].startswith("mix ")]
    assert len(planted) == 4
    for row in planted:
        assert row["state"] == state and why in str(row.get("why", row.get("wrong")))
    others = [row for row in report_rows if row not in planted]
    assert len(others) > 6 and all(row["state"] == "done" for row in others)
    log = (tmp_path / "failures.log").read_text()
    assert log.count("== launches: mix ") == 4
    if kind == "hang":
        assert "rehearsal" in log, "where it hung"
