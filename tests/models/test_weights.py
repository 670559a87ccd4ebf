"""What a checkpoint gives back: fine-tuning to other classes, longer trainings, the best epoch."""

import json
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import models
from models import data
from models.train import main
from models.training import fit
from models.training.recipe import Recipe, recipe_for
from models.training.weights import load_network

SMALL = {"stages": ((4,), (4,)), "dense": (4, 4)}
OPTIONS = ["--option", "stages=((4,),(4,))", "--option", "dense=(4,4)"]


def digits(count=64):
    images = data.load("digits", limit=count)
    return replace(images, test_x=images.test_x[:32], test_y=images.test_y[:32])


def trained(
    folder, name="basecnn_2_cc", images=None, epochs=1, milestones=None, extend=False, **network
):
    """A run of a small network; one that is there is gone on with."""
    network = {**SMALL, "num_classes": 10, **network}
    torch.manual_seed(0)
    recipe = recipe_for(name, epochs=epochs, batch_size=32, milestones=milestones)
    names = {"name": name, "data": "digits", "network": network}
    model = models.create(name, **network)
    options = {"out": folder, "resume": extend, "extend": extend, "names": names}
    fit(model, images or digits(), recipe, progress=False, **options)
    return model


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["basecnn_2_cc", "basecnn_2_cp", "capsnet"])
@pytest.mark.filterwarnings("ignore:mpkernels")
def test_fine_tuning_to_other_classes(name, tmp_path):
    """Layers that tell classes start anew, by name; all others are those of the checkpoint."""
    known = models.options(name)
    network = {k: v for k, v in SMALL.items() if k in known}
    model = models.create(name, **network, num_classes=10)
    recipe = recipe_for(name, epochs=1, batch_size=32)
    names = {"name": name, "data": "digits", "network": {**network, "num_classes": 10}}
    fit(model, digits(), recipe, out=tmp_path, progress=False, names=names)
    with pytest.warns(UserWarning, match="tells 10 classes, this .* 7: .* start anew") as told:
        tuned = models.create(name, pretrained=tmp_path, **network, num_classes=7)
    held, own = model.state_dict(), tuned.state_dict()
    anew = {n for n in own if own[n].shape != held[n].shape}
    named = str(told[0].message).partition("7: ")[2].removesuffix(" start anew").split(", ")
    assert set(named) == anew and anew
    for n in own.keys() - anew:
        assert torch.equal(own[n], held[n]), n
    assert told[0].filename == __file__


def test_other_sizes_are_no_other_classes(tmp_path):
    trained(tmp_path)
    with pytest.raises(ValueError, match="(?s)does not fit basecnn_2_cc: .*size mismatch"):
        models.create("basecnn_2_cc", pretrained=tmp_path, **{**SMALL, "dense": (4, 8)})
    with pytest.raises(ValueError, match="(?s)does not fit basecnn_2_cc: .*size mismatch"):
        options = {**SMALL, "dense": (4, 8), "num_classes": 7}
        models.create("basecnn_2_cc", pretrained=tmp_path, **options)


@pytest.mark.filterwarnings("always")
def test_the_command_tells_which_layers_start_anew(tmp_path, capsys):
    trained(tmp_path / "first", num_classes=12)
    arguments = ["basecnn_2_cc", "--data", "digits", "--limit", "64", "--epochs", "1", *OPTIONS]
    arguments += ["--pretrained", str(tmp_path / "first"), "--out", str(tmp_path / "tuned")]
    assert main(arguments) == 0
    told = capsys.readouterr().err
    assert re.search("(?m)^warning: .*12 classes, this basecnn_2_cc 10: .* start anew$", told)


def test_a_longer_run_is_as_if_it_had_been_that_long(tmp_path):
    trained(tmp_path / "short", epochs=1)
    longer = trained(tmp_path / "short", epochs=2, extend=True)
    held = json.loads((tmp_path / "short" / "checkpoint.json").read_text())["options"]
    assert held["epochs"] == 2 and held["milestones"] == [1, 1]
    assert [epoch["lr"] for epoch in metrics(tmp_path / "short")] == pytest.approx([0.1, 0.001])
    # As long from the start, with these milestones.
    whole = trained(tmp_path / "whole", epochs=2, milestones=(1, 1))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, longer.state_dict()[name]), name


def test_what_cannot_be_extended(tmp_path, capsys):
    arguments = ["basecnn_2_cc", "--data", "digits", "--limit", "64", *OPTIONS]
    arguments += ["--out", str(tmp_path), "--batch-size", "32"]
    assert main([*arguments, "--epochs", "2"]) == 0
    for more, reason in (
        (["--epochs", "1", "--resume", "--extend"], "extend: epochs must be at least the 2 of"),
        (["--epochs", "3", "--extend"], "extend: a run that goes on is wanted (resume)"),
        (["--epochs", "3", "--resume", "--extend", "--schedule", "cosine"], "schedule must be st"),
        (["--epochs", "3", "--resume"], "resume: epochs must be 2 as in"),
        (["--epochs", "3", "--resume", "--extend", "--lr", "0.5"], "learning_rate must be 0.1"),
    ):
        assert main([*arguments, *more]) == 2
        assert reason in capsys.readouterr().err
    for _ in range(2):  # the same command goes on where it was stopped
        assert main([*arguments, "--epochs", "3", "--resume", "--extend"]) == 0


def test_the_best_epoch_is_kept_beside_the_last(tmp_path):
    trained(tmp_path, epochs=4)
    accuracies = [epoch["test_accuracy"] for epoch in metrics(tmp_path)]
    best, known = load_network(tmp_path / "best")
    assert len(known["metrics"]) == accuracies.index(max(accuracies)) + 1
    images = digits()
    right = best(data.normalise(images, images.test_x)).argmax(1) == images.test_y
    assert right.double().mean().item() == pytest.approx(max(accuracies))
    assert len(load_network(tmp_path)[1]["metrics"]) == 4


def test_what_becomes_of_the_best_epoch(tmp_path):
    trained(tmp_path)
    with pytest.raises(ValueError, match="is the best epoch of .*; choose another folder"):
        trained(tmp_path / "best", epochs=2, extend=True)


def test_the_recipe_of_a_longer_run_is_written_anew(tmp_path):
    trained(tmp_path)
    trained(tmp_path, epochs=3, extend=True)
    assert "epochs = 3\n" in (tmp_path / "recipe.toml").read_text("utf-8")


def test_widths_that_grow_as_the_classes_do_are_other_sizes(tmp_path):
    trained(tmp_path, num_classes=10)
    wide = {"stages": ((8,), (8,)), "dense": (8, 8), "num_classes": 20}
    with pytest.raises(ValueError, match="(?s)does not fit basecnn_2_cc: .*size mismatch"):
        models.create("basecnn_2_cc", pretrained=tmp_path, **wide)


class Unused(nn.Module):
    """A user's network with a part that no image goes through."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(3 * 32 * 32, 10), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x.flatten(1))


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_any_network_goes_on_with_any_momentum(momentum, tmp_path):
    def run(folder, epochs, resume=False):
        torch.manual_seed(0)
        model = Unused()
        recipe = Recipe(
            epochs=epochs, batch_size=32, milestones=(9,), learning_rate=0.01, momentum=momentum
        )
        fit(model, digits(), recipe, out=folder, resume=resume, extend=resume, progress=False)
        return model.state_dict()

    whole = run(tmp_path / "whole", 2)
    run(tmp_path / "part", 1)
    for name, value in run(tmp_path / "part", 2, resume=True).items():
        assert torch.equal(value, whole[name]), name


def test_a_checkpoint_knows_its_classes_and_its_images(tmp_path):
    images = digits()
    trained(tmp_path, images=images)
    known = load_network(tmp_path)[1]
    assert known["preparation"] == images.preparation
    other = replace(images, names=tuple("abcdefghij"))
    with pytest.raises(ValueError, match=r"resume: classes must be \['0', '1', .* got \['a', 'b'"):
        trained(tmp_path, images=other, epochs=2, extend=True)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "basecnn_9_cc"},
        {"network": {"colour": 3}},
        {"network": {"stages": 5}},
        {"network": {"stages": [[4, 4]], "dense": "ab"}},
        {"network": {"num_classes": -1}},
        {"name": "mine"},
        {"preparation": 5},
        {"preparation": {"names": ["a"]}},
    ],
)
def test_options_that_were_changed_by_hand_are_refused_by_name(change, tmp_path):
    trained(tmp_path)
    path = tmp_path / "checkpoint.json"
    held = json.loads(path.read_text("utf-8"))
    held["options"].update(change)
    path.write_text(json.dumps(held), "utf-8")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_network(tmp_path)
