"""What the paper leaves open, as choices of a recipe: what decays, starts, fills and updates."""

import math

import pytest
import torch

import models
from models import data, train
from models.data.images import augment
from models.suited import options_for
from models.train import main
from models.training import fit
from models.training.optimizers import optimizer_of
from models.training.recipe import CHOICES, Recipe, names, read, recipe_for

SMALL = {"stages": ((4,), (4,)), "dense": (4, 4), "num_classes": 10}


def shifted(fill):
    """The rows of 3x3 pixels from 1 to 9 that were moved down by two."""
    x = torch.arange(1.0, 10).view(1, 1, 3, 3)
    offsets = torch.tensor([[0], [2]])  # of rows 0 - 2 and of columns 2 - 2
    return augment(x, 2, offsets, torch.tensor([False]), fill)[0, 0].tolist()


def test_what_fills_the_places_that_a_shift_leaves():
    last = [1.0, 2.0, 3.0]
    assert shifted("mean") == shifted("black") == [[0.0] * 3, [0.0] * 3, last]
    assert shifted("nearest") == [last, last, last]
    assert shifted("reflect") == [[7.0, 8.0, 9.0], [4.0, 5.0, 6.0], last]


def test_fills_are_colours_of_the_image_before_it_is_normalised():
    x = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    y = torch.zeros(1, dtype=torch.long)
    images = data.Images(x, y, x, y, ("a",), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), False)
    found = {}
    for fill in CHOICES["fill"]:
        ((batch, _),) = images.train_batches([torch.tensor([0])], 4, 0, 1, "cpu", fill)
        found[fill] = sorted({tuple(p) for p in batch[0].flatten(1).T.tolist()})
    white = tuple(torch.tensor([0.5 / 0.2, 0.6 / 0.2, 0.7 / 0.1]).tolist())
    black = [-0.5 / 0.2, -0.4 / 0.2, -0.3 / 0.1]
    assert len(found["mean"]) == len(found["black"]) == 2
    assert found["mean"][0] == (0.0, 0.0, 0.0)
    assert found["black"][0] == pytest.approx(black) and found["black"][1] == pytest.approx(white)
    assert found["nearest"] == found["reflect"] and found["nearest"][0] == pytest.approx(white)


KERNELS = {
    "basecnn_2_cc": {f"segments.{stage}.{path}.0.0.weight" for stage in (0, 1) for path in (0, 1)},
    "basecnn_2_cp": {"routers.0.weight", "routers.1.weight"},
    "cr_stitch_2": {f"segments.{stage}.{path}.0.0.weight" for stage in (0, 1) for path in (0, 1)},
}


@pytest.mark.parametrize("kind", CHOICES["optimizer"])
@pytest.mark.parametrize("on", CHOICES["weight_decay_on"])
@pytest.mark.parametrize("name", KERNELS)
def test_what_decays(name, on, kind):
    """Without gradients of a loss, decay alone moves weights: of convolutions, or all."""
    torch.manual_seed(0)
    model = models.create(name, **SMALL)
    recipe = Recipe(optimizer=kind, weight_decay=0.1, weight_decay_on=on, momentum=0.0)
    optimizer = optimizer_of(model, recipe)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    every = {name for name, p in before.items() if p.count_nonzero()}
    assert moved == (every if on == "all" else KERNELS[name])
    if kind == "sgd":
        for part in moved:
            torch.testing.assert_close(model.get_parameter(part), before[part] * 0.99)


@pytest.mark.parametrize("kind", CHOICES["optimizer"])
def test_runs_of_both_optimizers_go_on_exactly(kind, tmp_path):
    def trained(folder, epochs, **more):
        torch.manual_seed(0)
        model = models.create("basecnn_2_cc", **SMALL)
        recipe = Recipe(
            epochs=epochs, batch_size=32, learning_rate=0.003, milestones=(9,), optimizer=kind,
            weight_decay=1e-3, weight_decay_on="kernels", fill="nearest",
        )  # fmt: skip
        images = data.load("digits", limit=96)
        fit(model, images, recipe, out=tmp_path / folder, progress=False, **more)
        return model.state_dict()

    trained("a", 1)
    found, wanted = trained("a", 2, resume=True, extend=True), trained("b", 2)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def deviation(inputs, outputs, how):
    return math.sqrt(2 / inputs if how == "he" else 2 / (inputs + outputs))


@pytest.mark.parametrize("how", ["he", "glorot"])
@pytest.mark.parametrize("name", ["basecnn_2_cc", "basecnn_2_cp", "resnet20_2_cp"])
def test_how_layers_start(how, name):
    torch.manual_seed(0)
    plain = models.create(name)
    torch.manual_seed(0)
    model = models.create(name, layer_init=how)
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    seen = 0
    for (part, module), other in zip(model.named_modules(), plain.modules()):
        if isinstance(module, kinds):
            places = math.prod(module.weight.shape[2:])
            outputs, inputs = (size * places for size in module.weight.shape[:2])
        elif hasattr(module, "w1") and hasattr(module, "weight"):
            places = math.prod(module.weight.shape[3:])
            inputs = module.weight.shape[2] * places
            outputs = module.weight.shape[1] // module.outputs * places
        else:
            continue
        seen += 1
        wanted = deviation(inputs, outputs, how)
        count = module.weight.numel()
        # The estimate of a deviation is off by 1 / sqrt(2 count) of it, for normal weights.
        assert module.weight.std().item() == pytest.approx(wanted, rel=5 / math.sqrt(2 * count))
        assert module.bias is None or not module.bias.count_nonzero()
        if hasattr(module, "w1"):
            assert torch.equal(module.w1, other.w1), part  # gates have a start of their own
    assert seen > 4


@pytest.mark.parametrize("name", [name for name in names() if name.endswith("_keras")])
def test_what_the_paper_states_is_in_both_recipes(name):
    ours, theirs = read(name.removesuffix("_keras")), read(name)
    for value in ("epochs", "batch_size", "learning_rate", "momentum", "milestones", "shift"):
        assert getattr(ours, value) == getattr(theirs, value)
    assert theirs.fill == "nearest" and theirs.layer_init != "pytorch"


def test_a_recipe_decides_how_a_network_by_name_starts():
    images = data.load("digits", limit=8)
    recipe = recipe_for("resnet20", "cifar_resnet_keras")
    assert options_for("resnet20", images, recipe)["layer_init"] == "he"
    assert "layer_init" not in options_for("resnet20", images, Recipe())
    with pytest.raises(ValueError, match="layer_init must be pytorch: capsnet has no such opt"):
        options_for("capsnet", images, recipe)


def test_choices_from_the_command_line(tmp_path, capsys):
    command = ["basecnn_2_cc", "--data", "digits", "--limit", "64", "--epochs", "1"]
    command += ["--option", "stages=((4,),(4,))", "--option", "dense=(4,4)", "--batch-size", "32"]
    chosen = {"layer_init": "he", "fill": "reflect", "optimizer": "adam",
              "weight_decay_on": "kernels"}  # fmt: skip
    for name, value in chosen.items():
        command += [f"--{name.replace('_', '-')}", value]
    assert main([*command, "--lr", "0.001", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "recipe.toml").read_text()
    for name, value in chosen.items():
        assert f'{name} = "{value}"\n' in text
    with pytest.raises(SystemExit):
        main([*command, "--fill", "mirror"])
    assert main([*command, "--option", "layer_init=he"]) == 2
    assert "a value of the recipe: --layer-init" in capsys.readouterr().err
    assert set(train._WORDS) == set(CHOICES)
    with pytest.raises(ValueError, match="fill must be mean, black, nearest or reflect, got 'x'"):
        Recipe(fill="x")


class Own:
    """A data set of the user's own, written before there was a choice of what fills shifts."""

    def __init__(self, images):
        self.images = images

    def __getattr__(self, name):
        return getattr(self.images, name)

    def train_batches(self, parts, shift, seed, epoch, device):
        return self.images.train_batches(parts, shift, seed, epoch, device)


def test_data_sets_of_the_users_own_need_not_know_of_fills():
    images = Own(data.load("digits", limit=32))
    model = models.create("basecnn", **SMALL)
    recipe = Recipe(epochs=1, batch_size=16, milestones=())
    assert len(fit(model, images, recipe, progress=False)) == 1
    with pytest.raises(TypeError, match="fill"):
        fit(model, images, Recipe(epochs=1, batch_size=16, milestones=(), fill="nearest"),
            progress=False)  # fmt: skip
