"""The picture of the demo at its printed size: texts do not overlap, and say what is measured."""

import itertools

import pytest
import torch
from matplotlib.text import Text

from benchmarks.demo import gates, picture, timing
from models import data
from models.training.curves import pyplot

SIZES = (1, 2, 2, 2, 2)  # input paths of each router of basecnn_2_cc


@pytest.fixture
def written(monkeypatch):
    """Draws a figure; returns (text, its box) of all that is drawn. Ticks out of range are not."""

    def draw(figure):
        texts, plain = [], Text.draw

        def note(text, renderer, *arguments, **named):
            if text.get_visible() and text.get_text():
                texts.append(text)
            return plain(text, renderer, *arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(Text, "draw", note)
            figure.canvas.draw()  # the layout, which measures tick labels and draws texts too
            texts.clear()
            figure.canvas.draw()
        return [(text.get_text(), text.get_window_extent()) for text in dict.fromkeys(texts)]

    yield draw
    pyplot().close("all")


def overlapping(texts):
    return [
        (one, other)
        for (one, box), (other, its) in itertools.combinations(texts, 2)
        if box.overlaps(its)
    ]


def figure_of(factor, deviation, accuracies, epochs=5):
    """The picture of made-up figures: `factor` between the times, gates that stray this much."""
    images = data.load("digits", limit=2)
    rng = torch.Generator().manual_seed(0)
    first = [0.5 + deviation * torch.randn(images.test_count, m, generator=rng) for m in SIZES]
    of_routers = [torch.stack([g, 1 - g], 2) for g in first]
    times = {}
    for part in timing.PARTS:
        times[f"fused {part}"] = [1000.0 + at for at in range(15)]
        times[f"eager {part}"] = [factor * 1000 + 9 * at for at in range(15)]
    run = [
        {"epoch": at + 1, **{f"{of}_accuracy": accuracies[0] for of in ("train", "test")}}
        for at in range(epochs)
    ]
    row = {"routers": "all", "change": -0.01, "low": -0.03, "high": 0.01, "p": 1.9e-51}
    result = {
        "runs": {"fused": run, "eager": run},
        "microseconds": times,
        "ratios": timing.compare(times),
        "ablation": {
            "accuracy": accuracies[0],
            "routers": {str(at): {"deviation": deviation} for at in range(len(SIZES))},
            "contrasts": [
                {**row, "rule": rule, "accuracy": accuracy}
                for rule, accuracy in zip(picture.RULES, accuracies[1:])
            ],
        },
    }
    return picture.drawn("basecnn_2_cc on scanned digits", images, of_routers, result), result


@pytest.mark.parametrize(
    "figures",
    [
        (1.0, 0.001, (1.0, 1.0, 1.0, 1.0, 0.0)),
        (31.4, 0.3, (0.1, 0.1, 0.5, 1.0, 0.0)),
        (0.2, 0.06, (0.9915, 0.9915, 0.5, 1.0, 0.4986), 1),
    ],
)
def test_no_text_overlaps_another_or_leaves_the_picture(written, figures):
    figure, result = figure_of(*figures)
    texts = written(figure)
    assert len(texts) > 130
    assert overlapping(texts) == []
    page = figure.bbox
    for text, box in texts:
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, text
    said = "\n".join(text for text, _ in texts)
    for part in timing.PARTS:
        assert timing.in_words(result["ratios"][part]) in said
    assert gates.dependence(gates.deviations(result["ablation"])) in said
    assert gates.worth(result["ablation"])[1:] in said


def test_an_overlap_is_found(written):
    figure = pyplot().figure()
    for at, word in ((0.1, "one"), (0.11, "other"), (0.9, "far")):
        figure.text(at, 0.5, word)
    assert overlapping(written(figure)) == [("one", "other")]


def test_a_difference_that_is_nearly_nothing_looks_so():
    """The colours of 0.001 are those of nothing, however small all differences are."""
    figure, _ = figure_of(1.0, 0.001, (1.0,) * 5)
    (shown,) = (
        image
        for axes in figure.findobj(lambda one: hasattr(one, "get_images"))
        for image in axes.get_images()
        if image.get_array().shape == (sum(SIZES), 10)
    )
    assert shown.get_clim() == (-gates.HARDLY, gates.HARDLY)
    pyplot().close("all")
