"""Labels for pictures from a run alone, and evaluation with what the checkpoint knows."""

import csv
import io
import json
import shutil

import pytest
import torch

from models import data
from models.evaluate import main as evaluate
from models.predict import main as predict
from models.train import main as train
from models.training import checkpoint
from models.training.weights import load_network

pytest.importorskip("torchvision", reason="torchvision is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
OPTIONS = ["--option", "stages=((4,),(4,))", "--option", "dense=(4,4)", "--epochs", "2"]
COLOURS = {"blue": (40, 40, 200), "green, light": (90, 220, 90), "red": (200, 30, 30)}


def draw(path, colour, seed, size=(31, 45)):
    noise = torch.Generator().manual_seed(seed)
    pixels = torch.tensor(colour) + 20 * torch.randn(*size, 3, generator=noise)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clamp(0, 255).byte().numpy()).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of three colours, and a run trained on them."""
    root = tmp_path_factory.mktemp("colours")
    for part, numbers in (("train", range(12)), ("val", range(12, 15))):
        for name, colour in COLOURS.items():
            for at in numbers:
                draw(root / part / name / f"{at}.png", colour, at)
    arguments = ["basecnn_2_cc", "--data", "folder", "--data-dir", str(root), "--batch-size", "6"]
    assert train([*arguments, *OPTIONS, "--lr", "0.02", "--out", str(root / "run")]) == 0
    return root


def test_pictures_are_labelled_as_the_network_sees_them_in_evaluation(folder, capsys, tmp_path):
    pictures = folder / "val"
    assert predict([str(folder / "run"), str(pictures), "--top", "3", "--format", "json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 9
    network, known = load_network(folder / "run")
    images = data.load("folder", folder, preparation=known["preparation"])
    (x, y), *_ = images.test_batches([torch.arange(9)], "cpu")
    with torch.no_grad():
        expected = network(x).softmax(1)
    of_class = {name: expected[y == label] for label, name in enumerate(images.names)}
    for answer in answers:
        labels = answer["labels"]
        assert sorted(each["label"] for each in labels) == sorted(COLOURS)
        values = [each["probability"] for each in labels]
        assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(1)
        truth = answer["image"].split("/")[-2]
        values = {each["label"]: each["probability"] for each in labels}
        row = [values[name] for name in images.names]
        assert any(torch.allclose(torch.tensor(row), each, atol=1e-5) for each in of_class[truth])


def test_csv_names_the_likeliest_class(folder, capsys, tmp_path):
    images = [str(folder / "val" / name / "12.png") for name in COLOURS]
    assert predict([str(folder / "run"), *images, "--out", str(tmp_path / "labels.csv")]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "labels.csv").read_text("utf-8"))))
    assert [row["image"] for row in rows] == images and {row["rank"] for row in rows} == {"1"}
    assert all(row["label"] in COLOURS for row in rows)
    assert capsys.readouterr().out == ""
    # Nothing of the training data is needed, nor the folder's name.
    shutil.copytree(folder / "run", tmp_path / "elsewhere")
    assert predict([str(tmp_path / "elsewhere" / "best"), *images]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "image,rank,label,probability"


def test_pictures_that_cannot_be_read_are_told(folder, capsys, tmp_path):
    draw(tmp_path / "good.png", COLOURS["red"], 0)
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:99])
    (tmp_path / "text.jpg").write_text("no picture")
    arguments = [str(folder / "run"), *(str(tmp_path / n) for n in ("bad.png", "good.png"))]
    assert predict([*arguments, str(tmp_path / "text.jpg")]) == 2
    told = capsys.readouterr()
    assert told.out.count("good.png") == 1 and "bad.png" not in told.out
    assert all(f"error: {tmp_path / name}" in told.err for name in ("bad.png", "text.jpg"))


def test_one_bad_folder_costs_no_label(folder, capsys, tmp_path):
    draw(tmp_path / "some/b.png", COLOURS["red"], 0)
    (tmp_path / "some/a.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "some/loop").symlink_to(tmp_path / "some")
    (tmp_path / "empty").mkdir()
    arguments = [str(folder / "run"), str(tmp_path / "empty"), str(tmp_path / "some")]
    assert predict(arguments) == 2
    told = capsys.readouterr()
    assert told.out.count("b.png") == 1 and "a.png" not in told.out
    assert f"{tmp_path / 'empty'} has no image" in told.err and "a.png" in told.err


def test_numbers_that_are_not_finite_are_no_labels(folder, capsys, tmp_path):
    state = checkpoint.load(folder / "run")
    state["model"] = {
        name: value * 1e30 if value.is_floating_point() and "var" not in name else value
        for name, value in state["model"].items()
    }
    checkpoint.save(tmp_path / "run", state)
    assert predict([str(tmp_path / "run"), str(folder / "val/red/12.png")]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "is not finite for one of" in told.err


def test_what_cannot_be_predicted(folder, capsys, tmp_path):
    run, image = str(folder / "run"), str(folder / "val/red/12.png")
    shutil.copytree(folder / "run", tmp_path / "old")
    path = tmp_path / "old/checkpoint.json"
    held = json.loads(path.read_text("utf-8"))
    del held["options"]["preparation"]
    path.write_text(json.dumps(held), "utf-8")
    for arguments, reason in (
        ([run, image, "--top", "0"], "top must be at least 1, got 0"),
        ([run, image, "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        ([str(tmp_path / "none"), image], "there is no checkpoint at"),
        ([run, str(tmp_path / "none.png")], f"{tmp_path / 'none.png'}"),
        ([run, image, "/dev/null"], "there is no picture and no folder at /dev/null"),
        ([str(tmp_path / "old"), image], "does not know the names of its classes"),
    ):
        assert predict(arguments) == 2
        assert reason in capsys.readouterr().err


def test_evaluation_goes_by_the_checkpoint(folder, capsys, tmp_path):
    """Other training images nearby change nothing, other labels are mapped by name."""

    def top(root):
        assert evaluate([str(folder / "run"), "--data-dir", str(root), "--out", str(tmp_path)]) == 0
        result = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
        return result["top-1"], result["loss"], result["classes"]

    expected = top(folder)
    bright = tmp_path / "bright"
    shutil.copytree(folder / "val", bright / "val")
    assert top(bright) == expected  # without any training image
    for name in COLOURS:
        draw(bright / "train" / name / "0.png", (250, 250, 250), 0)
    assert top(bright) == expected
    shutil.rmtree(bright / "val" / "blue")
    assert top(bright)[2] == expected[2]
    (bright / "val" / "red").rename(bright / "val" / "read")
    arguments = [str(folder / "run"), "--data-dir", str(bright)]
    assert evaluate(arguments) == 2
    told = capsys.readouterr().err
    assert "read" in told and "red" in told


def test_an_ensemble_must_see_the_same_images(folder, capsys, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "other")
    path = tmp_path / "other/checkpoint.json"
    held = json.loads(path.read_text("utf-8"))
    held["options"]["preparation"]["names"][0] = "purple"
    path.write_text(json.dumps(held), "utf-8")
    arguments = [str(folder / "run"), str(tmp_path / "other"), "--data-dir", str(folder)]
    assert evaluate(arguments) == 2
    assert "runs must see the same images: names must be" in capsys.readouterr().err
