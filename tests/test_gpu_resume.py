"""What a second run of the GPU report keeps of the first, and when the report is good."""

import json

import pytest
import torch
from conftest import INTERPRETED

if INTERPRETED:
    pytest.skip("runs in the other process", allow_module_level=True)

from benchmarks import gpu, gpu_correctness, gpu_proof

HERE = {"commit": "abc", "torch": "2.14", "triton": "3.9", "card": "A Card", "date": "today"}


@pytest.fixture
def a_card(monkeypatch, tmp_path):
    """A GPU whose parts are two; yields a run that returns its status, report and what it ran."""
    ran, right, here = [], {"kernels": True}, dict(HERE)

    def kernels(report):
        ran.append("kernels")
        return {"rows": [], "right": right["kernels"]}

    def environment(report):
        return dict(here)

    def copy(report):
        ran.append("copy")
        return {"gigabytes_per_second": {}}

    parts = {"environment": environment, "copy": copy, "kernels": kernels}
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu_proof, "environment", environment)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A Card")

    def run(*options, wrong=False, **changed):
        ran.clear(), here.update(changed)
        right["kernels"] = not wrong
        status = gpu.main(["--out", str(tmp_path), *options])
        return status, json.loads((tmp_path / "gpu_a_card.json").read_text()), list(ran)

    return run


def test_what_is_done_and_right_is_kept(a_card):
    assert a_card()[0::2] == (0, ["copy", "kernels"])
    assert a_card()[0::2] == (0, [])
    assert a_card(date="tomorrow")[2] == []


def test_what_was_wrong_is_run_again_and_counts_until_it_is_right(a_card):
    assert a_card(wrong=True)[0::2] == (1, ["copy", "kernels"])
    assert a_card("--only", "copy", wrong=True)[0::2] == (1, [])
    assert a_card()[0::2] == (0, ["kernels"])


@pytest.mark.parametrize("changed", ["commit", "torch", "triton"])
def test_another_commit_or_version_starts_again(a_card, changed, capsys):
    a_card()
    status, report, ran = a_card(**{changed: "another"})
    assert (status, ran) == (0, ["copy", "kernels"])
    assert report["environment"][changed] == "another"
    assert f"{changed} is another, was {HERE[changed]}" in capsys.readouterr().out


@pytest.mark.parametrize("missed", [-1, 0])
def test_correctness_needs_every_kind_once(monkeypatch, missed):
    """In time for one turn of routers, dtypes and layouts; the other batches may be left out."""
    cases = gpu_correctness.all_cases()
    kinds = len({case[:3] for case in cases})
    row = {"case": "", "dtype": "fp32", "share": {}, "wrong": [], "seed": 1}

    class Pool:
        def __init__(self, *options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def map(self, check, cases, *rest):
            return [row if at < kinds + missed else None for at in range(len(cases))]

    monkeypatch.setattr(gpu_proof, "ProcessPoolExecutor", Pool)
    found = gpu_proof.correctness({})
    assert found["right"] is (missed == 0) and found["checked"] == kinds + missed
