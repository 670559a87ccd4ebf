"""What a network needs of its images, and data sets that are read as a network needs them."""

import json

import pytest
import torch

from models import data
from models.data.finding import tell

SEEN = data.Preparation(("a", "b", "c"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 20, 24)


def test_through_json_and_back():
    held = json.loads(json.dumps(SEEN.as_dict()))
    assert held == {"names": ["a", "b", "c"], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
                    "size": 20, "resized": 24}  # fmt: skip
    assert data.Preparation.from_dict(held) == SEEN
    images = data.load("digits", limit=10)
    assert data.Preparation.from_dict(images.preparation.as_dict()) == images.preparation
    assert images.preparation.names == images.names and images.preparation.resized == 32
    assert (images.preparation.mean, images.preparation.std) == (images.mean, images.std)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("names", None, "preparation has no names"),
        ("mean", None, "preparation has no mean"),
        ("resized", None, "preparation has no resized"),
        ("names", "abc", "names of a preparation must be a list of different texts, got 'abc'"),
        ("names", ["a", "a"], "must be a list of different texts"),
        ("names", [], "must be a list of different texts"),
        ("names", ["a", 1], "must be a list of different texts"),
        ("mean", [0.1, 0.2], "mean of a preparation must be three numbers, got"),
        ("mean", [0.1, 0.2, float("nan")], "mean of a preparation must be three numbers, got"),
        ("mean", [True, 0.2, 0.2], "mean of a preparation must be three numbers, got"),
        ("std", [0.1, 0.2, 0.0], "std of a preparation must be three numbers above 0"),
        ("std", [0.1, 0.2, float("inf")], "std of a preparation must be three numbers above 0"),
        ("size", 0, "size of a preparation must be a whole number above 0, got 0"),
        ("size", 2.0, "size of a preparation must be a whole number above 0, got 2.0"),
        ("size", True, "size of a preparation must be a whole number above 0, got True"),
        ("resized", 19, "resized of a preparation must be at least its size 20, got 19"),
        ("crop", 3, "preparation has the unknown key crop"),
    ],
)
def test_what_is_missing_or_wrong_is_named(key, value, reason):
    held = {**SEEN.as_dict(), key: value}
    if value is None:
        del held[key]
    with pytest.raises(ValueError, match=reason):
        data.Preparation.from_dict(held)


def test_something_else_than_a_preparation():
    for held in (None, [1], "text"):
        with pytest.raises(ValueError, match="preparation must have keys and values, got"):
            data.Preparation.from_dict(held)


@pytest.fixture
def root(tmp_path):
    """test/ with the classes c and a, and no train/."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from PIL import Image

    noise = torch.Generator().manual_seed(0)
    for label in "ca":
        (tmp_path / "test" / label).mkdir(parents=True)
        pixels = torch.randint(0, 256, (31, 45, 3), dtype=torch.uint8, generator=noise)
        Image.fromarray(pixels.numpy()).save(tmp_path / "test" / label / "0.png")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_a_folder_as_a_network_sees_it(name, workers, root, capsys):
    tell.cache_clear()
    images = data.load(name, root, workers=workers, preparation=SEEN)
    told = capsys.readouterr().err
    assert f"{root / 'test'} has no images of these classes of the network: b\n" in told
    assert ("imagenet is normalised by the network's" in told) == (name == "imagenet")
    assert images.preparation == SEEN and images.names == SEEN.names and images.classes == 3
    assert (images.train_count, images.test_count, images.size) == (0, 2, 20)
    ((x, y),) = images.test_batches([torch.arange(2)], "cpu")
    assert y.tolist() == [0, 2]  # of a and c, as the network counts
    for label, picture in zip("ac", x):
        assert torch.equal(picture, data.prepare(root / "test" / label / "0.png", SEEN))
    assert x.shape == (2, 3, 20, 20) and x.dtype == torch.float32
    ((crops, _),) = images.test_batches([torch.arange(2)], "cpu", 10)
    assert torch.equal(crops[:, 4], x)


def test_prepare_is_what_test_batches_give(root):
    (root / "train").symlink_to(root / "test")
    for name in ("folder", "imagenet"):
        images = data.load(name, root)
        ((x, _),) = images.test_batches([torch.arange(2)], "cpu")
        for label, picture in zip("ac", x):
            path = str(root / "test" / label / "0.png")
            assert torch.equal(picture, data.prepare(path, images.preparation))
        again = data.load(name, root, preparation=images.preparation)
        assert torch.equal(next(again.test_batches([torch.arange(2)], "cpu"))[0], x)
        assert again.preparation == images.preparation


def test_images_seen_whole_have_no_ten_crops(root):
    seen = data.Preparation(SEEN.names, SEEN.mean, SEEN.std, 32, 32)
    images = data.load("folder", root, preparation=seen)
    with pytest.raises(ValueError, match="crops must be 1: .* whole, got 10"):
        next(images.test_batches([torch.arange(1)], "cpu", 10))


def test_classes_that_the_network_has_not(root):
    seen = data.Preparation(("apple", "cats", "b"), SEEN.mean, SEEN.std, 32, 32)
    (root / "test" / "c").rename(root / "test" / "cat")
    (root / "test" / "a").rename(root / "test" / "b")
    text = "test has the class cat, which the network has not; did you mean cats?"
    with pytest.raises(ValueError, match=text):
        data.load("folder", root, preparation=seen)
    (root / "test" / "cat").rename(root / "test" / "zebra")
    with pytest.raises(ValueError, match="class zebra, which .*; it has apple, cats, b"):
        data.load("folder", root, preparation=seen)


def test_a_named_set_as_a_network_sees_it(capsys):
    tell.cache_clear()
    images = data.load("digits")
    names = ("none", *reversed(images.names))
    seen = data.Preparation(names, (0.5,) * 3, (0.25,) * 3, 32, 32)
    other = data.load("digits", preparation=seen)
    assert capsys.readouterr().err.splitlines() == [
        "digits has no images of these classes of the network: none",
        "digits is normalised by the network's mean and deviation, which are not its own",
    ]
    assert other.preparation == seen
    assert torch.equal(other.test_y, 10 - images.test_y)
    ((x, _),) = other.test_batches([torch.arange(3)], "cpu")
    assert torch.equal(x, (images.test_x[:3].float() / 255 - 0.5) / 0.25)
    same = data.load("digits", preparation=images.preparation)
    assert capsys.readouterr().err == "" and torch.equal(same.test_y, images.test_y)
    with pytest.raises(ValueError, match="digits has images of 32x32 pixels, the network sees 20x"):
        data.load("digits", preparation=SEEN)
    with pytest.raises(ValueError, match="digits has the class 0, which the network has not; it"):
        data.load("digits", preparation=data.Preparation(("a",), SEEN.mean, SEEN.std, 32, 32))
