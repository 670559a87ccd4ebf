"""What routers did, recorded once: figures come from the log alone, and say what was recorded."""

import json
import shutil

import numpy as np
import pytest
import torch

import models
import mpkernels
from models import data
from models.look.__main__ import FIGURES, main
from models.look.figures import canvas, classes, depth, gates, parameters, route, weights
from models.look.recorded import maximise
from models.look.recorded.log import NAME, Log, load, relative, save
from models.paper.placing import place
from models.training import fit
from models.training.curves import pyplot
from models.training.recipe import recipe_for

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
SMALL = {"stages": ((4,), (4,)), "dense": (4, 4), "num_classes": 10}
IMAGES = ["--images", "3", "5", "8"]


def trained(folder, name="basecnn_2_cc", **more):
    torch.manual_seed(0)
    options = {**SMALL, "gate_init": "glorot", **more}
    model = models.create(name, **options)
    recipe = recipe_for(name, epochs=1, batch_size=32)
    names = {"name": name, "data": "digits", "network": options}
    fit(model, data.load("digits", limit=128), recipe, out=folder, names=names, progress=False)
    return model.eval()


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """A run with all of its figures: the folder, and the network."""
    folder = tmp_path_factory.mktemp("look")
    model = trained(folder / "run")
    trained(folder / "apart", kind=None, gate_init="linear")
    options = [*IMAGES, "--beside", str(folder / "apart")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maximise, "STEPS", 4)
        assert main([str(folder / "run"), *options]) == 0
    return folder, model


def test_the_log_holds_what_the_network_does(looked):
    folder, model = looked
    log, images = load(folder / "run/look" / NAME), data.load("digits")
    x = data.normalise(images, images.test_x)
    with torch.no_grad(), mpkernels.record(model) as recorded:
        logits = model(x)
    route = log.of("route")
    assert route["predicted"].tolist() == logits.argmax(1).tolist()
    assert route["labels"].tolist() == images.test_y.tolist()
    assert [r["name"] for r in log.routers] == list(recorded)
    for at, calls in enumerate(recorded.values()):
        for what in ("gates", "scores"):
            held = torch.from_numpy(log.each_router(what)[at])
            torch.testing.assert_close(held, getattr(calls, what), rtol=1e-4, atol=1e-5)
        means = torch.from_numpy(log.each_router("inputs")[at])
        torch.testing.assert_close(means, calls.pooled.mean(2), rtol=1e-4, atol=1e-5)


def test_outputs_are_the_means_of_what_routers_return(looked):
    folder, model = looked
    log, images = load(folder / "run/look" / NAME), data.load("digits")
    x = data.normalise(images, images.test_x[:16])
    found = []
    hooks = [r.register_forward_hook(lambda m, a, ys: found.append(ys[0])) for r in model.routers]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    for ys, means in zip(found, log.outputs()):
        expected = torch.stack([y.flatten(1).mean(1) for y in ys], 1)
        torch.testing.assert_close(torch.from_numpy(means[:16]), expected, rtol=1e-4, atol=1e-5)


def test_every_figure_is_drawn_again_from_the_log_alone(looked, tmp_path):
    folder, _ = looked
    before = folder / "run/look"
    shutil.copy(before / NAME, tmp_path / NAME)
    assert main([str(tmp_path / NAME), *IMAGES]) == 0
    files = sorted(path.name for path in before.iterdir())
    assert files == sorted(path.name for path in tmp_path.iterdir())
    gates = {f"gate-{at}-{i}-1" for at in range(1, 5) for i in range(1, 2 if at == 1 else 3)}
    assert gates <= {name.partition(".")[0] for name in files}
    for name in files:
        if name.endswith((".csv", ".html")):
            assert (tmp_path / name).read_bytes() == (before / name).read_bytes(), name
        elif name.endswith(".png"):
            assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_a_log_is_of_one_checkpoint(looked, tmp_path, capsys):
    folder, _ = looked
    shutil.copytree(folder / "run", tmp_path / "run")
    assert main([str(tmp_path / "run"), "classes"]) == 0
    assert "recording" not in capsys.readouterr().err
    trained(tmp_path / "other", gate_init="he")
    shutil.copytree(tmp_path / "run/look", tmp_path / "other/look")
    assert main([str(tmp_path / "other"), "classes"]) == 0
    assert "recording: route" in capsys.readouterr().err


def test_switches_are_what_the_network_does_with_such_gates(looked):
    folder, model = looked
    log, images = load(folder / "run/look" / NAME), data.load("digits")
    switches = log.of("switches")
    x = data.normalise(images, images.test_x[switches["indices"]])
    assert len(switches["switched"]) == 1 + (1 + 2 + 2 + 2) * 3
    for at, i, to in ((2, 1, -1), (1, 0, 0), (3, 1, 1)):
        number = switches["switched"].tolist().index([at, i, to])
        gates = switches[f"gates/{at}"][0].copy()
        gates[:, i] = log.each_router("gates")[at].mean(0)[i] if to < 0 else np.eye(2)[to]
        forced = {f"routers.{at}": torch.from_numpy(gates)}
        with torch.no_grad(), mpkernels.route(model, forced), mpkernels.record(model) as recorded:
            expected = model(x).softmax(1)
        held = torch.from_numpy(switches["probabilities"][number])
        torch.testing.assert_close(held, expected, rtol=1e-3, atol=1e-4)
        for behind in range(4):
            held = torch.from_numpy(switches[f"gates/{behind}"][number])
            own = recorded[f"routers.{behind}"].gates
            torch.testing.assert_close(held, own, rtol=1e-3, atol=1e-4)


def test_pictures_that_a_log_held_stay(looked, tmp_path):
    shutil.copytree(looked[0] / "run", tmp_path / "run")
    log = load(tmp_path / "run/look" / NAME)
    one, two = sorted({*range(355)} - {*log.of("pictures")["indices"].tolist()})[:2]
    for images in ([one], [two]):
        assert main([str(tmp_path / "run"), "route", "--images", *map(str, images)]) == 0
    held = load(tmp_path / "run/look" / NAME).of("pictures")["indices"].tolist()
    assert {one, two} <= {*held}


def overlapping(figure):
    """Pairs of texts of a figure that cover one another."""
    from matplotlib.axis import Axis
    from matplotlib.text import Text

    figure.canvas.draw()
    beyond = [
        label
        for axes in figure.findobj(Axis)
        for tick in axes.get_major_ticks()
        if not min(axes.get_view_interval()) <= tick.get_loc() <= max(axes.get_view_interval())
        for label in (tick.label1, tick.label2)
    ]
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    hidden = [t for t in texts if t.axes is not None and not t.axes.axison]
    texts = [t for t in texts if t not in beyond and (t not in hidden or t in t.axes.texts)]
    boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts]  # of labels without lines
    return [
        (a, b) for at, (a, one) in enumerate(boxes) for b, two in boxes[at + 1 :]
        if min(one.x1, two.x1) - max(one.x0, two.x0) > 1
        and min(one.y1, two.y1) - max(one.y0, two.y0) > 1
    ]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn in a test, still open."""
    figures = []
    monkeypatch.setattr(
        canvas, "keep", lambda figure, folder, name, head, rows: figures.append((figure, [*rows]))
    )
    for module in (classes, depth, gates, parameters, route, weights):
        monkeypatch.setattr(module, "keep", canvas.keep)
    yield figures
    pyplot().close("all")


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "page"])
def test_texts_do_not_overlap(name, looked, drawn, tmp_path):
    log = load(looked[0] / "run/look" / NAME)
    FIGURES[name][1](log, tmp_path, [3, 5, 8])
    assert drawn
    for figure, rows in drawn:
        assert rows and overlapping(figure) == []


def test_texts_that_overlap_are_found():
    figure, axes = pyplot().subplots()
    axes.text(0.5, 0.5, "one")
    axes.text(0.51, 0.5, "two")
    assert ("one", "two") in overlapping(figure)
    pyplot().close(figure)


def test_accuracies_beside_published_ones(drawn, tmp_path):
    comparison = tmp_path / "comparison"
    comparison.mkdir()
    (comparison / "plan.json").write_text(json.dumps({"data": "cifar10"}))
    (comparison / "report.csv").write_text(
        "network,parameters,mean,deviation,best,paper,errors\n"
        "resnet20_2_cc,550000,6.5,0.2,6.3,5.5,6.3 6.7\nresnet20,270000,9.0,,9,8.75,9\n"
    )
    parameters.draw(comparison, tmp_path)
    ((figure, rows),) = drawn
    assert [axes.get_title() for axes in figure.axes] == ["cifar10", "cifar100"]
    measured = [row for row in rows if row[2] == "measured"]
    assert [row[:2] for row in measured] == [
        ("cifar10", "resnet20_2_cc"),
        ("cifar10", "resnet20"),
    ]
    assert ("cifar100", "resnet32_4_cc", "published", 1.88, pytest.approx(76.48)) in [
        row[:5] for row in rows
    ]
    assert overlapping(figure) == []


def test_crowded_labels_find_room():
    figure, axes = pyplot().subplots(figsize=(6, 5))
    generator = np.random.default_rng(0)
    points = [(x, y, f"network {at}") for at, (x, y) in enumerate(generator.normal(0, 1, (25, 2)))]
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o")
    axes.margins(0.3)
    place(axes, points)
    assert overlapping(figure) == []
    pyplot().close(figure)


def test_shares_of_activation():
    assert relative(np.array([[1.0, 3.0], [0.0, 0.0]])).tolist() == [[0.25, 0.75], [0.0, 0.0]]


def test_damaged_logs_are_named(looked, tmp_path, capsys):
    whole = (looked[0] / "run/look" / NAME).read_bytes()
    path = tmp_path / "bad.npz"
    generator = np.random.default_rng(0)
    flipped = []
    for at in generator.integers(0, len(whole), 300):
        flipped.append(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    for content in (
        b"",
        b"PK",
        whole[:2000],
        whole[: len(whole) // 2],
        b"[]" + whole[2:],
        *flipped,
    ):
        path.write_bytes(content)
        try:
            load(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} is no log of `mpkernels look`, or damaged")
        else:
            assert content in flipped  # where nothing is read
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.write_bytes(path.with_suffix(".npy").read_bytes())
    assert main([str(path), "classes"]) == 2
    np.savez(path, about=np.array({"run": "code"}, dtype=object), allow_pickle=True)
    assert main([str(path), "classes"]) == 2
    save(Log({"network": "a", "routers": []}), path)
    assert main([str(path), "classes"]) == 2
    assert "the log holds no route: record it from the run" in capsys.readouterr().err


def test_what_cannot_be_looked_at(looked, tmp_path, capsys):
    folder, _ = looked
    run, log = str(folder / "run"), folder / "run/look" / NAME
    absent = min({*range(355)} - {*load(log).of("pictures")["indices"].tolist()})
    for arguments, reason in (
        ([run, "routes"], "figures must be some of route, maximise"),
        ([run, "route", "--images", "355"], "images must be from 0 to 354, got 355"),
        ([run, "route", "--images", "-1"], "images must be from 0 to 354, got -1"),
        ([run, "classes", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        ([str(folder / "apart"), "classes"], "paths must meet at routers with gates"),
        ([str(tmp_path / "none"), "classes"], "there is no run, checkpoint or log at"),
        ([str(tmp_path / "none"), "parameters"], "there is no run, checkpoint or log at"),
        ([str(tmp_path), "classes"], "there is no checkpoint at"),
        ([run, "weights", "--beside", run], "beside: paths that never meet are wanted"),
        ([str(log), "route", "--images", str(absent)], f"no pixels of {absent}"),
    ):
        assert main(arguments) == 2, arguments
        assert reason in capsys.readouterr().err
    (tmp_path / "plan.json").write_text('{"data": "digits"}')
    assert main([str(tmp_path)]) == 2
    assert "is a comparison, of which parameters alone are drawn" in capsys.readouterr().err
    assert main([str(tmp_path), "parameters"]) == 2
    assert "report.csv" in capsys.readouterr().err
