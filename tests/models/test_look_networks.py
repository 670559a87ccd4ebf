"""Networks of other kinds and sizes are looked at, on few images too."""

import csv

import numpy as np
import pytest
import torch

import models
from models import data
from models.look.__main__ import FIGURES, main
from models.look.recorded import maximise, recorder
from models.look.recorded.log import NAME, load
from models.training import fit
from models.training.recipe import recipe_for
from models.training.weights import load_network

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
SMALL = {"stages": ((4,), (4,)), "dense": (4, 4), "num_classes": 10}


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


OTHERS = {
    "basecnn_3_cp": SMALL,
    "resnet20_3_cc": {"depth": 1, "num_classes": 10},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks(name, tmp_path, monkeypatch, capsys):
    """Three paths, routers whose outputs are no mixtures, blocks with shortcuts."""
    monkeypatch.setattr(maximise, "STEPS", 1)
    for folder, kind in (("run", {}), ("apart", {"kind": None})):
        torch.manual_seed(0)
        options = {**OTHERS[name], **kind}
        model = models.create(name, **options)
        names = {"name": name, "data": "digits", "network": options}
        images = data.load("digits", limit=32)
        recipe = recipe_for(name, epochs=1, batch_size=16)
        fit(model, images, recipe, out=tmp_path / folder, names=names, progress=False)
    figures = [figure for figure in FIGURES if figure != "maximise"]
    beside = ["--beside", str(tmp_path / "apart")]
    status = main([str(tmp_path / "run"), *figures, *beside])
    if name == "basecnn_3_cp":  # a cross-prediction holds the first convolution of each stage
        assert status == 2 and "beside: layers must be" in capsys.readouterr().err
        assert main([str(tmp_path / "run"), *figures]) == 0
    else:
        assert status == 0
        rows = rows_of(tmp_path / "run/look/weights.csv")
        assert {row["network"] for row in rows} == {name, "paths that never meet"}
    log = load(tmp_path / "run/look" / NAME)
    assert log.each_router("gates")[1].shape == (355, 3, 3)
    assert np.isnan(log.outputs()[1]).all() == (name == "basecnn_3_cp")
    recorder.record_pictures(log, data.load("digits"), [], 64)
    maximise.record_maximised(log, load_network(tmp_path / "run")[0], data.load("digits"), 64)
    assert len(log.of("maximise")["reached"]) == len(recorder.gates_of(log))
    FIGURES["maximise"][1](log, tmp_path, [])


def test_few_images_and_names_of_any_kind(tmp_path, monkeypatch):
    """A test image for each of two classes, whose pictures are all that there is."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    monkeypatch.setattr(maximise, "STEPS", 1)
    for part, count in (("train", 8), ("test", 1)):
        for name in ("_hidden", "食"):
            (tmp_path / part / name).mkdir(parents=True)
            for at in range(count):
                pixels = np.random.default_rng(at).integers(0, 256, (32, 32, 3), dtype=np.uint8)
                image.fromarray(pixels).save(tmp_path / part / name / f"{at}.png")
    options = {**SMALL, "num_classes": 2}
    model = models.create("basecnn_2_cc", **options)
    names = {"name": "basecnn_2_cc", "data": "folder", "network": options}
    recipe = recipe_for("basecnn_2_cc", epochs=1, batch_size=8)
    images = data.load("folder", tmp_path)
    fit(model, images, recipe, out=tmp_path / "run", names=names, progress=False)
    assert main([str(tmp_path / "run"), "--data-dir", str(tmp_path)]) == 0
    look = tmp_path / "run/look"
    assert {row["class"] for row in rows_of(look / "route.csv")} == {"_hidden", "食"}
    assert len(rows_of(look / "gate-1-1-1.csv")) == 1 + 1 + 8
