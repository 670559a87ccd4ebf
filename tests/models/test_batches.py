"""How an epoch is cut into batches, and what cannot be cut."""

import pytest
import torch

import models
from models import data
from models.train import main
from models.training.batches import count
from models.training.parallel import Processes
from models.training.recipe import Recipe, names, read, recipe_for
from models.training.step import Trainer

ARGUMENTS = ["basecnn_2_cc", "--data", "digits", "--epochs", "1"]


@pytest.mark.parametrize("images", [2, 3, 64, 129, 130, 255, 257, 1000])
def test_batches_are_of_equal_size_and_hold_every_image_once(images):
    model = models.create("basecnn_2_cc", stages=((4,),), dense=(4, 4))
    trainer = Trainer(model, data.load("digits", limit=images), recipe_for("basecnn_2_cc"))
    batches = trainer.batches()
    sizes = {len(batch) for batch in batches}
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= 128
    assert len(batches) == -(-images // 128)
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(images))
    assert all(map(torch.equal, batches, trainer.batches()))
    trainer.epoch = 1
    assert not all(map(torch.equal, batches, trainer.batches()))


def test_no_part_has_fewer_than_two_images():
    for world in (1, 2, 3):
        for size in range(1, 20):
            for accumulate in {1, size}:
                recipe = Recipe(batch_size=size, accumulate=accumulate)
                for images in range(1, 60):
                    try:
                        batches = count(images, recipe, world)
                    except ValueError:
                        continue
                    sizes = [len(p) for p in torch.arange(images).tensor_split(batches)]
                    assert max(sizes) <= size
                    for part in torch.arange(min(sizes)).tensor_split(world):
                        assert len(part) >= 2


def test_the_papers_recipes_have_the_steps_that_they_had():
    for name in names():
        recipe = read(name)
        for images in (50_000, 60_000, 1_281_167, 126_689):
            assert count(images, recipe) == -(-images // recipe.batch_size)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", "1"], "training needs at least 2 images (two, which batch norm needs), got 1"),
        (["--limit", "8", "--batch-size", "1"], "batch_size must be at least 2 (two, which"),
        (
            ["--limit", "5", "--batch-size", "2"],
            "batch_size must not leave batches of fewer than 2 images (two, which batch norm "
            "needs): 2 cuts 5 images into 3 of 1 or one more",
        ),
        (
            ["--limit", "8", "--batch-size", "8", "--accumulate", "8"],
            "accumulate must be at most 4 with batch_size 8: a part has at least 2 images",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_before_training(more, message, tmp_path, capsys):
    for dry in ([], ["--dry-run"]):
        assert main([*ARGUMENTS, *more, *dry, "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_several_processes_need_more():
    for images, recipe, message in (
        (7, Recipe(), r"at least 8 images \(two for each of 4 processes\), got 7"),
        (100, Recipe(batch_size=7), r"batch_size must be at least 8 \(two for each of 4"),
        (100, Recipe(batch_size=16, accumulate=4), "accumulate must be at most 2 with batch_size"),
        (9, Recipe(batch_size=8), "8 cuts 9 images into 2 of 4 or one more"),
    ):
        with pytest.raises(ValueError, match=message):
            count(images, recipe, 4)
    assert count(16, Recipe(batch_size=8), 4) == 2


def test_each_process_has_a_test_image():
    images = data.load("digits", limit=8)
    model = models.create("basecnn_2_cc", stages=((4,),), dense=(4, 4))
    with pytest.raises(ValueError, match="each process needs a test image, got 355 in all"):
        Trainer(model, images, recipe_for("own"), Processes(world=356))
