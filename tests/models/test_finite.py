"""Numbers that are not finite stop a training, with the place where they began."""

import json
import math

import pytest
import torch

import models
from models import data
from models import evaluate as evaluation
from models.train import main
from models.training import checkpoint, evaluate, fit
from models.training.files import as_json
from models.training.gates import Statistics, figures
from models.training.nonfinite import culprit
from models.training.recipe import Recipe, recipe_for
from models.training.step import Trainer

SMALL = {"stages": ((4,), (4,)), "dense": (4, 4)}


class Linear(torch.nn.Module):
    """One layer, whose loss may be changed."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3 * 32 * 32, 10)
        self.norm = torch.nn.BatchNorm1d(10)

    def forward(self, x):
        return self.norm(self.head(x.flatten(1)))


def test_a_loss_that_is_not_finite_stops():
    images = data.load("digits", limit=64)
    recipe = recipe_for("basecnn", epochs=3, batch_size=32, learning_rate=1e30)
    message = "the loss is not finite in epoch .*, step .*: .* not finite.*; try a lower --lr"
    with pytest.raises(FloatingPointError, match=message):
        fit(models.create("basecnn"), images, recipe, progress=False)


def changing(change):
    """A hook that changes the maps of a router, which may come with gates."""

    def hook(module, inputs, outputs):
        ys, *gates = outputs if isinstance(outputs, tuple) else (outputs,)
        ys = [change(y) for y in ys]
        return (ys, *gates) if gates else ys

    return hook


def test_the_layer_that_is_not_finite_is_named():
    model = models.create("basecnn_2_cc", stages=((4,), (4,)), dense=(4, 4))
    x = torch.randn(4, 3, 32, 32)

    def named(x):
        return culprit(model, x, lambda x: model(x).square().sum())

    assert named(x) is None
    assert named(x / 0) == "the images hold values that are not finite"
    router = model.routers[1]
    # The hook adds zero, with the gradient 0 * inf.
    hook = router.register_forward_hook(changing(lambda y: y + (y - y).sqrt()))
    assert named(x).endswith(
        "is the first, from the loss back, whose gradient is not finite, "
        "the last router behind it CrossConnect routers.1"
    )
    hook.remove()
    router.register_forward_hook(changing(lambda y: y * float("nan")))
    assert named(x).startswith("CrossConnect routers.1 is the first that is not finite")
    with torch.no_grad():
        router.w1.fill_(float("inf"))
    assert named(x) == "the parameter routers.1.w1 is not finite since the last update"


class NoGradient(Linear):
    """Its loss is finite, but its gradient is not."""

    def loss(self, output, target):
        return (output - output).sqrt().sum()


def test_a_gradient_that_is_not_finite_stops_before_the_update():
    images = data.load("digits", limit=64)
    model = NoGradient()
    before = model.head.weight.clone()
    with pytest.raises(FloatingPointError, match="the gradient is not finite in epoch 0, step 0: "
                       "BatchNorm1d norm is the first, from the loss back"):  # fmt: skip
        fit(model, images, recipe_for("own", epochs=1, batch_size=32), progress=False)
    assert torch.equal(model.head.weight, before)


def stops_after_the_last_update(monkeypatch, change):
    """Trains one step, after which `change` is done to the trainer."""
    step = Trainer.train_step

    def then_change(self, *arguments):
        step(self, *arguments)
        with torch.no_grad():
            change(self)

    monkeypatch.setattr(Trainer, "train_step", then_change)
    recipe = recipe_for("own", epochs=1, batch_size=32, ema=0.5)
    with pytest.raises(FloatingPointError) as caught:
        fit(Linear(), data.load("digits", limit=32), recipe, progress=False)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda t: t.bare.head.weight[0, 0].fill_(math.nan), "the parameter head.weight"),
        (lambda t: t.bare.norm.running_var[3].fill_(math.inf), "the buffer norm.running_var"),
        (
            lambda t: t.average.module.head.bias[0].fill_(math.nan),
            "the average of the parameter head.bias",
        ),
        (
            lambda t: t.average.module.norm.running_mean[0].fill_(math.nan),
            "the average of the buffer norm.running_mean",
        ),
    ],
)
def test_the_last_updates_weights_averages_and_buffers_are_looked_at(monkeypatch, change, place):
    message = stops_after_the_last_update(monkeypatch, change)
    assert message == f"after step 1 of epoch 0 {place} is not finite; try a lower --lr"


def test_a_test_loss_that_is_not_finite_is_no_result(monkeypatch):
    """Finite weights, each of them, overflow together."""
    message = stops_after_the_last_update(
        monkeypatch, lambda t: t.average.module.norm.weight.fill_(3e38)
    )
    assert message.startswith(
        "after epoch 0 the test loss is not finite: BatchNorm1d norm is the first that is not"
    )
    model = Linear()
    with torch.no_grad():
        model.norm.weight.fill_(3e38)
    with pytest.raises(FloatingPointError, match="the test loss is not finite: BatchNorm1d norm"):
        evaluate(model, data.load("digits", limit=2))


def test_a_mask_that_is_never_finite_is_no_fault():
    model = Linear()
    model.register_buffer("mask", torch.tensor([0, -math.inf]))
    recipe = recipe_for("own", epochs=1, batch_size=32, ema=0.5)
    fit(model, data.load("digits", limit=32), recipe, progress=False)


def test_a_state_that_is_not_finite_does_not_become_the_checkpoint(tmp_path, monkeypatch):
    images, recipe = data.load("digits", limit=32), recipe_for("own", epochs=2, batch_size=32)
    step = Trainer.train_step

    def breaks(self, *arguments):
        step(self, *arguments)
        if self.epoch == 1:
            self.bare.head.weight.data[0, 0] = math.nan

    monkeypatch.setattr(Trainer, "train_step", breaks)
    with pytest.raises(FloatingPointError, match="after step 1 of epoch 1 the parameter head.wei"):
        fit(Linear(), images, recipe, out=tmp_path, progress=False)
    monkeypatch.undo()
    assert len(fit(Linear(), images, recipe, out=tmp_path, resume=True, progress=False)) == 2


def test_one_step_at_a_huge_rate_ends_with_its_place(tmp_path, capsys):
    arguments = ["basecnn_2_cc", "--data", "digits", "--epochs", "1", "--limit", "64"]
    small = [f"--option={name}={value}" for name, value in SMALL.items()]
    assert main([*arguments, *small, "--lr", "1e30", "--out", str(tmp_path)]) == 2
    assert "CrossConnect routers.0 is the first that is not finite" in capsys.readouterr().err
    assert not (tmp_path / "checkpoint.json").exists()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_gradients_that_overflow_fp16_by_themselves_stop():
    """The scaler skips steps as long as it can halve its scale; no update would ever be made."""
    images = data.load("digits", limit=32)
    trainer = Trainer(NoGradient(), images, recipe_for("own", epochs=1, batch_size=32))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    (x, y), *_ = images.train_batches(trainer.batches(), 4, 0, 0, "cpu")
    weight = trainer.bare.head.weight.clone()
    for _ in range(2):
        trainer.train_step(x, y, 32)  # at 4, then at 2
    with pytest.raises(FloatingPointError, match="the gradient is not finite"):
        trainer.train_step(x, y, 32)
    assert torch.equal(trainer.bare.head.weight, weight)


def test_a_network_that_is_not_finite_has_no_evaluation(tmp_path, capsys):
    model = models.create("basecnn_2_cc", **SMALL)
    recipe = recipe_for("basecnn_2_cc", epochs=1, batch_size=32)
    names = {"name": "basecnn_2_cc", "data": "digits", "network": {"num_classes": 10, **SMALL}}
    fit(model, data.load("digits", limit=32), recipe, out=tmp_path, names=names, progress=False)
    state = checkpoint.load(tmp_path)
    for value in state["model"].values():
        value.fill_(math.nan if value.is_floating_point() else 1)
    checkpoint.save(tmp_path, state)
    assert evaluation.main([str(tmp_path), "--device", "cpu"]) == 2
    message = "the network's output is not finite for 355 of 355 test images"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "evaluation.json").exists()


FLOATS = [name for name, value in Recipe().as_dict().items() if isinstance(value, float)]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_values_of_a_recipe_are_finite(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Recipe(**{name: value})


def test_metrics_are_json():
    value = {"a": [math.nan, 1.5], "b": (math.inf, {"c": -math.inf}), "d": None, "e": "NaN"}
    wanted = {"a": [None, 1.5], "b": [None, {"c": None}], "d": None, "e": "NaN"}
    assert json.loads(as_json(value), parse_constant=pytest.fail) == wanted
    negative = Statistics()
    negative.add(torch.tensor([[[-0.5, 1.5]]]))
    assert "gates/r/entropy" not in figures({"r": negative})  # it has none
    assert all(map(math.isfinite, figures({"r": negative}).values()))
