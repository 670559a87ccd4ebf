"""The table of parameters next to the paper's figures, and torch.hub."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch

import models
from models import table
from models.paper.tables import ROWS, Printed
from proof.where import ROOT

# Marks of the paper's specification: for trainable parameters, then with statistics.
FITS = {
    "basecnn": "==", "widecnn": "==", "deepcnn": "==", "basecnn_3": "..",
    "basecnn_ensemble": ".=", "all_ensemble": "=t", "cr_stitch_2": ".=", "vgg16": "t.",
    "basecnn_2_cc": "==", "basecnn_3_cc": "==", "basecnn_4_cc": "=t", "resnet20": "==",
    "resnet18_2_cc": "==", "resnet50_2_cc": "=.", "wide_resnet50_2": "..",
    "resnext50_2_64": "..", "resnet164": "..",
}  # fmt: skip


def test_fits_and_errors():
    lines = {name: table.line(row) for row in ROWS for name in [row.name] if name in FITS}
    assert {name: one.fit for name, one in lines.items()} == FITS
    errors = {name: table.cells(lines[name])[5] for name in ("basecnn_3", "resnet164", "widecnn")}
    assert errors == {"basecnn_3": "+10.3%", "resnet164": "-31.8%", "widecnn": "+0.2%"}
    assert table.cells(lines["resnet18_2_cc"])[5] == "0.0%"
    for name, fit in FITS.items():
        assert lines[name].remark or "." not in fit or abs(lines[name].error) < 0.01
    basecnn = lines["basecnn"]
    assert basecnn.mib == 4 * 552_618 / 2**20
    # Two operations per weight and position: 32x32, then 16x16, then 8x8, then dense.
    weights = [9 * 3 * 32, 9 * 32 * 32, 9 * 32 * 64, 9 * 64 * 64, 9 * 64 * 128, 9 * 128 * 128]
    positions = [1024, 1024, 256, 256, 64, 64]
    dense = 8192 * 32 + 32 * 32 + 32 * 10
    flops = 2 * (sum(w * p for w, p in zip(weights, positions)) + dense)
    assert round(basecnn.gflop * 1e9) == flops


def test_marks():
    assert [table.fits(n, "0.55") for n in (545_000, 554_999, 555_000, 559_999, 560_000)] == [
        "=", "=", "t", "t", "."
    ]  # fmt: skip
    assert table.fits(11_689_512, "11.7") == "=" and table.fits(14_991_946, "14.9") == "t"


def test_every_network_has_a_row_and_every_row_a_place():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    (missing,) = (table.line(Printed(2, "None", "none", "0.5")),)
    assert missing.train is None and missing.remark == "not built"
    assert "None" in table.as_text([missing])


@pytest.mark.parametrize("form", list(table.FORMATS))
def test_formats(form, capsys):
    assert table.main(["basecnn_[34]_cc", "--format", form]) == 0
    text = capsys.readouterr().out
    if form == "json":
        assert [one["train"] for one in json.loads(text)] == [1_667_989, 2_224_236]
    else:
        lines = text.splitlines()
        assert len(lines) == (4 if form == "markdown" else 3)
        assert "1,667,989" in lines[-2] and "2,224,236" in lines[-1]
    assert table.main(["none"]) == 2
    assert capsys.readouterr().err == "error: no network matches 'none'\n"


@pytest.mark.slow
def test_the_whole_table():
    run = subprocess.run(
        [sys.executable, "-m", "models.table"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert all(any(f" {name} " in line for line in lines) for name in models.list())


def test_hub():
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    offered = [name for name, value in vars(hubconf).items() if callable(value) and name[0] != "_"]
    assert sorted(offered) == models.list()
    text = hubconf.resnet20_2_cc.__doc__
    assert text.startswith("ResNet20 for CIFAR with 2 cross-connected paths.")
    assert "kind='cc'" in text and "pretrained=None" in text
    model = torch.hub.load(str(ROOT), "resnet20_2_cc", source="local", num_classes=7, paths=3)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 7)
