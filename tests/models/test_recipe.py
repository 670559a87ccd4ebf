"""Recipes: the paper's figures, files, and bad values."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from models.training.recipe import Recipe, default_name, names, read, recipe_for

STATED = {  # epochs, batch size and milestones, as the paper states them
    "cifar_cnn": (200, 128, (80, 150)),
    "cifar_cnn_350": (350, 128, (150, 250)),
    "cifar_resnet": (350, 64, (150, 250)),
    "imagenet": (120, 256, (30, 60, 90)),
    "imagenet_100": (90, 256, (30, 60)),
}


@pytest.mark.parametrize("name", STATED)
def test_recipes_are_the_papers(name):
    recipe = read(name)
    assert (recipe.epochs, recipe.batch_size, recipe.milestones) == STATED[name]
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 0.0)
    assert recipe.shift == (4 if name.startswith("cifar") else 0)
    assert [one for one in names() if not one.endswith("_keras")] == sorted(STATED)


def test_every_network_has_a_recipe():
    expected = {
        "basecnn": "cifar_cnn", "basecnn_3_cp": "cifar_cnn", "se_deepcnn": "cifar_cnn",
        "resnet20_2_cc": "cifar_resnet", "wrn_40_2": "cifar_resnet",
        "resnet18_2_cc": "imagenet", "vgg13_2_cc": "imagenet_100",
    }  # fmt: skip
    assert {name: default_name(name) for name in expected} == expected
    assert default_name("resnet18_2_cc", 100) == "imagenet_100"
    assert default_name("basecnn", 100) == "cifar_cnn"


def test_milestones_move_with_the_epochs():
    assert recipe_for("basecnn", epochs=20).milestones == (8, 15)
    assert recipe_for("basecnn", epochs=1).rate(0) == 0.1
    assert recipe_for("basecnn", epochs=20, milestones=(3,)).milestones == (3,)
    rates = [read("cifar_cnn").rate(epoch) for epoch in (0, 79, 80, 149, 150, 199)]
    assert rates == [0.1, 0.1, 0.1 / 10, 0.1 / 10, 0.1 / 100, 0.1 / 100]


def test_a_cosine_and_a_warm_up_are_those_of_torch():
    recipe = Recipe(epochs=12, schedule="cosine", warm_up=3, learning_rate=0.4)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    warm_up = LinearLR(optimizer, 1 / 4, 1, total_iters=3)
    cosine = CosineAnnealingLR(optimizer, T_max=9)
    expected = SequentialLR(optimizer, [warm_up, cosine], milestones=[3])
    for epoch in range(12):
        assert recipe.rate(epoch) == pytest.approx(expected.get_last_lr()[0], rel=1e-12), epoch
        optimizer.step()
        expected.step()
    steps = Recipe(epochs=9, milestones=(5,), warm_up=1)
    assert [steps.rate(epoch) for epoch in (0, 1, 4, 5)] == [0.05, 0.1, 0.1, 0.1 / 10]


def test_a_recipe_is_read_as_it_was_written(tmp_path):
    recipe = Recipe(epochs=7, milestones=(2, 5), weight_decay=5e-4, amp="bf16", clip=1.5, ema=0.99)
    (tmp_path / "mine.toml").write_text(recipe.as_toml())
    assert read(str(tmp_path / "mine.toml")) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "is not TOML"),
        ("schedule = 'cosin'", "schedule must be steps or cosine, got 'cosin'"),
        ("epochs = 5\nwarm_up = 5", "warm_up must be below epochs = 5, got 5"),
        ("warm_up = -1", "warm_up must not be negative, got -1"),
        ("epoch = 3", "epoch is not one of epochs, batch_size.*did you mean epochs"),
        ("epochs = 2.5", r"epochs must be int, got 2\.5"),
        ("epochs = true", "epochs must be int, got True"),
        ("learning_rate = '0.1'", "learning_rate must be float, got '0.1'"),
        ("milestones = 3", "milestones must be epochs, a list of integers, got 3"),
        ("milestones = [0.5]", "milestones must be epochs, a list of integers"),
        ("amp = 'fp8'", "amp must be off, bf16 or fp16, got 'fp8'"),
        ("ema = 1.0", "ema must be from 0 to below 1, got 1.0"),
        ("accumulate = 3", "batch_size must be a multiple of accumulate = 3, got 128"),
        ("clip = -1", "clip must not be negative"),
    ],
)
def test_files_that_are_no_recipe(text, message, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"recipe: .*wrong.toml.*{message}"):
        read(str(path))


def test_values_that_cannot_be():
    assert Recipe(milestones=[1, 2]) == Recipe(milestones=(1, 2))
    with pytest.raises(ValueError, match="epochs must be int, got 2.5"):
        Recipe(epochs=2.5)
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match="seed must be from 0 to below 2.63, got"):
            Recipe(seed=seed)
    with pytest.raises(ValueError, match="recipe must be a file or one of cifar_cnn, .*'none'"):
        read("none")
    for wrong in ({"epochs": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"amp": "fp8"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            recipe_for("basecnn", **wrong)
