"""What gates know of an image, and how alike paths are: by hand, and of a gate that was planted."""

import math

import numpy as np
import pytest
import torch

import models
from models import data
from models.data import coloured
from models.look.figures import route
from models.look.recorded import likeness, maximise, recorder
from models.look.recorded.knowledge import by_depth, chance, explained, information, rise
from models.look.recorded.log import Log
from models.training.curves import pyplot

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
SMALL = {"stages": ((4,), (4,)), "dense": (4, 4), "num_classes": 10}


def planted():
    """A network whose first gate sees blue: it opens where blue outweighs red and green."""
    torch.manual_seed(0)
    model = models.create("basecnn_2_cc", **SMALL).eval()
    router = model.routers[0]
    with torch.no_grad():
        for parameter in (router.w1, router.b1, router.w2, router.b2):
            parameter.zero_()
        router.w1[0, 0] = torch.tensor([-0.5, -0.5, 1.0])
        router.w1[0, 1] = -router.w1[0, 0]
        router.w2[0, 0, :2] = torch.tensor([60.0, -60.0])
    return model


@pytest.fixture(scope="module")
def blue():
    """The log of the planted network, on coloured noise."""
    pixels = torch.randint(60, 256, (600, 32, 32), dtype=torch.uint8)
    contexts = coloured.contexts("test", 600)
    x, y = coloured.coloured(pixels, **contexts), torch.randint(10, (600,))
    images = data.Images(x, y, x, y, tuple("0123456789"), (0.2,) * 3, (0.2,) * 3, False)
    model = planted()
    log = Log({
        "network": "planted", "data": coloured.NAME, "checkpoint": "", "classes": [*"0123456789"],
        "routers": recorder.about_routers(model),
    })  # fmt: skip
    recorder.record_route(log, model, images, "cpu", 100)
    recorder.record_pictures(log, images, [0], 100)
    maximise.record_maximised(log, model, images, 32)
    return log


def test_what_a_planted_gate_knows(blue):
    found = {of.context: of for of in by_depth(blue)}
    assert set(found) == {"hue", "texture", "class"}
    assert found["hue"].explained[0] > 0.95 and found["hue"].chance[0] < 0.06
    assert found["texture"].explained[0] < 0.05 > found["class"].explained[0]
    assert rise(found["hue"], found["class"]) > 0  # whatever the others do, the first knows hues


def test_a_planted_gate_makes_blue_pictures(blue):
    made = blue.of("maximise")
    number = made["gates"].tolist().index([0, 0, 0])
    red, green, colour = made["pixels"][number].astype(float).mean((0, 1, 3, 4))
    assert colour > 4 * max(red, green, 1)
    assert made["reached"][number].min() > 0.999


def test_a_planted_gate_is_the_edge_that_is_drawn(blue):
    hue = blue.of("route")["context/hue"]
    gates = blue.each_router("gates")[0][:, 0, 0]
    for wanted, low, high in ((8, 0.999, 1), (0, 0, 0.001)):  # blue, red
        image = int(np.flatnonzero(hue == wanted)[0])
        assert low <= gates[image] <= high
        figure, axes = pyplot().subplots()
        route.diagram(axes, blue, image, None)
        edges = {(*line.get_xdata(), *line.get_ydata()): line for line in axes.lines}
        ends = (route.WIDE / 2, 1 - route.WIDE / 2)
        widths = [edges[(*ends, 0, -j)].get_linewidth() for j in range(2)]
        assert widths[0] == pytest.approx(0.4 + 5 * gates[image])
        assert (widths[0] > 5 and widths[1] < 0.5) == (wanted == 8)
        pyplot().close(figure)


def test_a_gates_logit_rises_with_the_gate_alone():
    scores = torch.tensor([[[0.0, 0.0, 0.0]], [[1.0, 2.0, -100.0]], [[1.0, 0.0, 0.0]]])
    score = maximise.objective(scores, 0, 0, "score")
    logit = maximise.objective(scores, 0, 0, "logit")
    gate = scores.softmax(2)[:, 0, 0]
    assert score[1] > score[0] and gate[1] < gate[0]  # as high as the score may be
    torch.testing.assert_close(logit, gate.logit())


def test_made_inputs_do_not_depend_on_how_many_are_made_at_a_time(blue):
    model, gate = planted(), ("routers.1", 0, 0, "logit")
    x = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    y = torch.zeros(1, dtype=torch.long)
    images = data.Images(x, y, x, y, ("a",), (0.2,) * 3, (0.2,) * 3, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maximise, "STEPS", 3)
        several = maximise.maximise(model, images, [(0, ("routers.2", 1, 0, "score")), (7, gate)])
        alone = maximise.maximise(model, images, [(7, gate)])
    torch.testing.assert_close(several[0][1:], alone[0], rtol=1e-3, atol=1e-3)


def test_explained_variance_by_hand():
    gates = np.array([0.0, 0.2, 1.0, 0.8])[:, None, None]
    assert explained(gates, np.array([0, 0, 1, 1])) == pytest.approx(0.64 / 0.68)
    assert explained(gates, np.array([0, 1, 0, 1])) == pytest.approx(0, abs=1e-12)
    assert explained(np.full((5, 1, 2), 0.5), np.arange(5)) == 0
    assert explained(np.random.default_rng(0).random((5, 1, 2)), np.arange(5)) == 1
    by_chance = chance(np.random.default_rng(0).random((400, 2, 2)), np.arange(400) % 10)
    assert by_chance.mean() == pytest.approx(9 / 399, rel=0.1)


def test_information_of_a_gate():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 2000)
    nats, p = information(labels + generator.random(2000), labels)
    assert 0.6 < nats < np.log(2) and p < 0.01
    nats, p = information(generator.random(2000), labels)
    assert nats < 0.01 and p > 0.01


def test_alignment_of_features():
    x = torch.randn(60, 5)
    turned, _ = torch.linalg.qr(torch.randn(5, 5))
    assert likeness.cka(x, 3 * x @ turned + 1) == pytest.approx(1, abs=1e-6)
    wide = [likeness.cka(torch.randn(60, 300), torch.randn(60, 300)) for _ in range(20)]
    assert abs(np.mean(wide)) < 0.02  # the biased estimate would be 0.8
    assert math.isnan(likeness.cka(torch.ones(60, 5) + 0.1, x))
    assert math.isnan(likeness.cka(x[:3], x[:3]))
    assert likeness.distance([torch.randn(5000), torch.randn(5000)]) < 0.05
    assert likeness.distance([torch.zeros(10), torch.ones(10)]) == 1


def test_hues_are_what_they_are_called():
    gray = torch.full((12, 4, 4), 200, dtype=torch.uint8)
    x = coloured.coloured(gray, torch.arange(12), torch.zeros(12, dtype=torch.long))
    brightest = x.amax((2, 3)).tolist()
    for hue, colour in ((0, [200, 0, 0]), (4, [0, 200, 0]), (8, [0, 0, 200]), (2, [200, 200, 0])):
        assert brightest[hue] == colour
    assert x[0, 0].tolist() == [[100] * 4, [100] * 4, [200] * 4, [200] * 4]
    again = coloured.contexts("test", 100)
    for name, groups in coloured.contexts("test", 50).items():
        assert groups.tolist() == again[name][:50].tolist()
        assert groups.tolist() != coloured.contexts("train", 50)[name].tolist()


def test_coloured_clothes():
    try:
        images = data.load("coloured-fashion-mnist", limit=100)
    except data.DataMissing as error:
        pytest.skip(str(error))
    plain = data.load("fashion-mnist", limit=100)
    assert torch.equal(images.test_y, plain.test_y) and torch.equal(images.train_y, plain.train_y)
    seen = images.preparation
    for again in (
        data.load(coloured.NAME, preparation=seen),
        data.load("fashion-mnist", preparation=seen),
    ):
        assert (again.mean, again.std) == (images.mean, images.std)
    hue = coloured.contexts("test", images.test_count)["hue"]
    red = images.test_x[hue == 0]
    assert red[:, 1:].max() == 0 and red[:, 0].max() == 255
    assert images.test_x.amax(1)[plain.test_x[:, 0] == 0].max() == 0
