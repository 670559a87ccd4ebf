"""Evaluation: scores against scikit-learn and by hand, ensembles, and runs that do not fit."""

import json

import pytest
import torch

import models
from models import data
from models.evaluate import figures, main, markdown
from models.paper import scores
from models.paper.scores import predict
from models.training import fit
from models.training.recipe import recipe_for

SMALL = {"stages": ((4,), (4,)), "dense": (4, 4), "num_classes": 10}


def problem(count=200, classes=7):
    probabilities = (2 * torch.randn(count, classes)).softmax(-1)
    return probabilities, torch.randint(classes, (count,))


def test_scores_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    probabilities, labels = problem()
    every = range(7)
    for count in (1, 5):
        expected = metrics.top_k_accuracy_score(labels, probabilities, k=count, labels=every)
        assert scores.top(probabilities, labels, count) == pytest.approx(expected, rel=1e-12)
    table = metrics.confusion_matrix(labels, probabilities.argmax(1), labels=every)
    assert scores.confusion(probabilities, labels).tolist() == table.tolist()
    wide = probabilities.double()
    expected = metrics.log_loss(labels, wide / wide.sum(1, keepdim=True), labels=every)
    assert scores.loss(probabilities, labels) == pytest.approx(expected, rel=1e-6)
    assert scores.top(probabilities, labels, 9) == 1


def test_classes_without_images_have_no_recall_and_unseen_ones_no_precision():
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.2, 0.7]])
    result = figures(probabilities, torch.tensor([0, 0]))
    assert result["recall"] == [0.5, None, None] and result["precision"] == [1.0, None, 0.0]
    machine = {"device": "", "threads": 1, "torch": "", "commit": ""}
    about = {"networks": [], "data": "", "environment": machine, "milliseconds": {}}
    text = markdown({**result, **about, "classes": ["a", "b", "c"]})
    assert text.endswith("| a | 0.5000 | 1.0000 | 2 |\n| b | - | - | 0 |\n| c | - | 0.0000 | 0 |\n")


def test_the_calibration_error_by_hand():
    # Two images are in the bin of 0.6 (one right), one in that of 0.9 (wrong), one at the top edge.
    probabilities = torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    expected = (2 * abs(0.5 - 0.6) + abs(0 - 0.9) + abs(1 - 1.0)) / 4
    assert scores.calibration_error(probabilities, labels) == pytest.approx(expected, rel=1e-6)
    certain = torch.eye(3)[torch.tensor([0, 1, 2, 2])]
    assert scores.calibration_error(certain, torch.tensor([0, 1, 2, 2])) == 0
    probabilities, labels = problem(1000)
    confidence, predicted = probabilities.max(1)
    total = 0.0
    for bin in range(15):
        inside = (confidence > bin / 15) & (confidence <= (bin + 1) / 15)
        if inside.any():
            right = (predicted == labels)[inside].double().mean()
            total += inside.double().mean() * (right - confidence[inside].double().mean()).abs()
    assert scores.calibration_error(probabilities, labels) == pytest.approx(float(total), rel=1e-6)


def trained(folder, seed, name="basecnn_2_cc"):
    torch.manual_seed(seed)
    model = models.create(name, **SMALL)
    recipe = recipe_for(name, epochs=1, batch_size=32, seed=seed)
    names = {"name": name, "data": "digits", "network": SMALL}
    fit(model, data.load("digits", limit=64), recipe, out=folder, names=names, progress=False)
    return model.eval()


def test_runs_and_their_ensemble(tmp_path, capsys):
    networks = [trained(tmp_path / str(seed), seed) for seed in range(2)]
    images = data.load("digits")
    x = data.normalise(images, images.test_x)
    with torch.no_grad():
        probabilities = [network(x).softmax(-1) for network in networks]
    runs = [str(tmp_path / str(seed)) for seed in range(2)]
    for expected, arguments in (
        (probabilities[0], runs[:1]),
        (torch.stack(probabilities).mean(0), [*runs, "--out", str(tmp_path / "both")]),
    ):
        assert main([*arguments, "--batch-size", "4"]) == 0
        folder = tmp_path / "both" if "--out" in arguments else tmp_path / "0"
        result = json.loads((folder / "evaluation.json").read_text())
        assert result["top-1"] == scores.top(expected, images.test_y, 1)
        assert result["loss"] == pytest.approx(scores.loss(expected, images.test_y), rel=1e-5)
        assert result["classes"] == list("0123456789") and result["environment"]["torch"]
        assert result["images"] == 355 and set(result["milliseconds"]) == {"1", "4"}
        assert sum(map(sum, result["confusion"])) == 355
        assert (folder / "confusion.png").read_bytes()[:4] == b"\x89PNG"
        assert capsys.readouterr().out.strip() == (folder / "evaluation.md").read_text().strip()


def test_runs_that_do_not_fit(tmp_path, capsys):
    trained(tmp_path / "run", 0)
    path = tmp_path / "run" / "checkpoint.json"
    whole = path.read_text()
    for change, more, reason in (
        (("", ""), ["--ten-crop"], "crops must be 1"),
        (("", ""), ["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (
            ("", ""),
            ["--data", "cifar10"],
            "on one data set, which --data must be, got cifar10, dig",
        ),
        (('"data": "digits"', '"data": null'), [], "got none; name it with --data"),
        (('"data": "digits"', '"data": "cifar10"'), ["--data-dir", str(tmp_path)], "download=True"),
        (('"data": "digits"', '"data": "fashion"'), [], "data must be one of"),
        (('"num_classes": 10', '"num_classes": 9'), [], "names 10 classes, its network tells 9"),
        (('"name": "basecnn_2_cc"', '"name": "basecnn"'), [], "does not fit basecnn:"),
        (('"format"', '"form"'), [], "is not a checkpoint that training wrote"),
    ):
        path.write_text(whole.replace(*change) if change[0] else whole)
        assert main([str(tmp_path / "run"), *more]) == 2
        assert reason in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("evaluation*"))
    assert main([str(tmp_path / "none")]) == 2
    assert "there is no checkpoint at" in capsys.readouterr().err


def images_of(folder, classes):
    """The folder, with one PNG of noise in each train/CLASS and val/CLASS."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for part in ("train", "val"):
        for label in range(classes):
            (folder / part / f"class{label}").mkdir(parents=True)
            pixels = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
            image.fromarray(pixels.numpy()).save(folder / part / f"class{label}" / "image.png")
    return folder


def test_other_classes(tmp_path, capsys):
    """They are mapped by name; by number where a checkpoint does not know their names."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    trained(tmp_path / "run", 0)
    path, folder = tmp_path / "run" / "checkpoint.json", images_of(tmp_path / "images", 2)
    whole = json.loads(path.read_text())
    for name, nameless in (
        ("folder", "has 10 classes, folder has 2\n"),
        ("imagenet", "has 10 classes, imagenet has 2; --classes takes the first so many\n"),
    ):
        known = {**whole["options"], "data": name}
        for preparation, reason in (
            (known.pop("preparation"), "val has the class class0, which the network has not; it"),
            (None, f"error: {path} {nameless}"),
        ):
            held = {**known, "preparation": preparation} if preparation else known
            path.write_text(json.dumps({**whole, "options": held}))
            assert main([str(path), "--data-dir", str(folder)]) == 2
            assert reason in capsys.readouterr().err


class Pooled(torch.nn.Module):
    """Logits from a few means of an image, which differ between crops."""

    def forward(self, x):
        return 20 * torch.nn.functional.adaptive_avg_pool2d(x, (1, 2)).flatten(1)[:, :3]


def test_probabilities_of_ten_crops_are_their_mean(tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    images = data.load("imagenet", images_of(tmp_path, 3))
    probabilities, labels = predict(Pooled(), images, "cpu", 10, batch_size=20)
    assert labels.tolist() == [0, 1, 2]
    for index in range(3):
        ((crops, _),) = images.test_batches([torch.tensor([index])], "cpu", 10)
        alone = torch.stack([Pooled()(crop[None])[0].softmax(0) for crop in crops[0]])
        assert alone.std(0).max() > 0
        torch.testing.assert_close(probabilities[index], alone.mean(0))


def test_gates_in_training_and_in_the_report(tmp_path):
    model = trained(tmp_path, 0)
    images = data.load("digits", limit=64)
    with torch.no_grad():
        _, gates = model(data.normalise(images, images.test_x), return_gates=True)
    (epoch,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    for at, g in enumerate(gates):
        name = f"gates/routers.{at}"
        deviation = g.double().std(0, correction=0).mean()
        assert epoch[f"{name}/deviation"] == pytest.approx(float(deviation), rel=1e-3, abs=1e-6)
        usage = [epoch[f"{name}/usage_{j}"] for j in range(2)]
        assert usage == pytest.approx(g.mean((0, 1)).tolist(), rel=1e-5)
    assert main([str(tmp_path), "--ablate"]) == 0
    result = json.loads((tmp_path / "evaluation.json").read_text())
    found = result["gates"]
    assert found["accuracy"] == pytest.approx(result["top-1"])
    assert len(found["routers"]) == len(gates) and len(found["contrasts"]) == 4 * (1 + len(gates))
    assert "## Gates" in (tmp_path / "evaluation.md").read_text()
