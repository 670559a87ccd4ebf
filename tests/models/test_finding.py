"""Which images of a folder count, and which part of it is held out."""

import os
import re
import sys

import pytest
import torch

from models import data
from models.data import finding
from models.data.finding import find

pytest.importorskip("torchvision", reason="torchvision is not installed")
from PIL import Image  # noqa: E402


def put(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path, "PNG")


@pytest.fixture
def root(tmp_path):
    put(*(tmp_path / part / label / "0.png" for part in ("train", "val") for label in "ab"))
    return tmp_path


def names_of(samples, root):
    return [(str(os.path.relpath(path, root)), label) for path, label in samples]


def test_order_is_by_folder_and_name(root):
    put(root / "train/a/z/0.JPG", root / "train/a/y.jpeg", root / "train/a/b/c/0.gif")
    train, held, names = find(root, None)
    assert names == ("a", "b")
    assert names_of(train, root / "train") == [
        ("a/0.png", 0), ("a/y.jpeg", 0), ("a/b/c/0.gif", 0), ("a/z/0.JPG", 0), ("b/0.png", 1)
    ]  # fmt: skip
    assert names_of(held, root) == [("val/a/0.png", 0), ("val/b/0.png", 1)]


def test_what_is_left_out_is_told_once_and_by_part(root, capsys):
    assert find(root, None) and capsys.readouterr().err == ""
    train, *_ = find(root, None)
    put(root / "train/a/.ipynb_checkpoints/0-checkpoint.png", root / "train/a/._0.png",
        root / "train/.ipynb_checkpoints/0.png", root / "train/b/__MACOSX/0.png",
        root / "train/outside.png")  # fmt: skip
    for name in ("thumbs.db", "Thumbs.db", "README", "notes.txt", ".DS_Store"):
        (root / "train/a" / name).touch()
    os.mkfifo(root / "train/a/pipe.png")
    (root / "val/a/label.txt").touch()
    assert find(root, None)[0] == train
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert told[0] == (
        f"{root}/train: 2 images; left out: 5 hidden, 2 .db, 1 outside of the class folders, "
        "1 without extension, 1 .txt and 1 more"
    )
    assert told[1] == f"{root}/val: 2 images; left out: 1 .txt"
    find(root, None)
    assert capsys.readouterr().err == ""  # a command may read a set twice


def test_of_several_processes_the_first_one_tells(root, capsys, monkeypatch):
    (root / "val/a/label.txt").touch()
    monkeypatch.setenv("RANK", "1")
    find(root, None)
    assert capsys.readouterr().err == ""


def test_links_are_followed_and_multiply_nothing(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere / "1.png", elsewhere / "2.png")
    (root / "train/a/linked").symlink_to(elsewhere)
    (root / "train/a/again").symlink_to(elsewhere)
    (root / "train/a/file.png").symlink_to(elsewhere / "1.png")
    for number, target in enumerate((root / "train/a", root / "train", root, "/")):
        (root / f"train/a/loop{number}").symlink_to(target)
    (root / "train/a/linked/back").symlink_to(root / "train/a")
    train, *_ = find(root, None)
    found = [name for name, label in names_of(train, root / "train") if label == 0]
    assert [os.path.basename(name) for name in found] == ["0.png", "file.png", "1.png", "2.png"]


def test_links_that_cannot_be_right(root):
    (root / "train/a/gone.png").symlink_to(root / "gone")
    with pytest.raises(data.DataMissing, match=f"a/gone.png is a link to {root}/gone, where noth"):
        find(root, None)
    (root / "train/a/gone.png").unlink()
    (root / "train/c").symlink_to(root / "gone")
    with pytest.raises(data.DataMissing, match=r"train/c is a link to .*/gone, where nothing is"):
        find(root, None)
    (root / "train/c").unlink()
    (root / "train/a/self").symlink_to("self")
    with pytest.raises(data.DataMissing, match="train/a/self is a link to self, where nothing is"):
        find(root, None)
    (root / "train/a/self").unlink()
    (root / "train/a/of_b").symlink_to(root / "train/b")
    with pytest.raises(data.DataMissing, match=r"train/b belongs to two classes, a and b"):
        find(root, None)


def test_folders_without_classes_or_images(root):
    (root / "val/c").mkdir()
    (root / "val/c/.hidden.png").touch()
    (root / "train/c").mkdir()
    with pytest.raises(data.DataMissing, match=r"train has no image in c; what is read: .*\.jfif"):
        find(root, None)
    put(root / "train/c/0.png")
    with pytest.raises(data.DataMissing, match=r"val has no image in c; what is read"):
        find(root, None)
    flat = root / "flat"
    put(flat / "train/0.png", flat / "train/1.png", flat / "val/a/0.png")
    text = "flat/train must hold a folder for each class, got none and 2 files"
    for name in ("folder", "imagenet"):
        with pytest.raises(data.DataMissing, match=text):
            data.load(name, flat)
    (root / "empty/train").mkdir(parents=True)
    with pytest.raises(data.DataMissing, match="for each class, got none and 0 files"):
        data.load("folder", root / "empty")


def test_a_folder_that_cannot_be_listed_is_named(root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(finding.os, "scandir", refuse)
    with pytest.raises(data.DataMissing, match="train cannot be read: Permission denied"):
        find(root, None)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such names")
def test_names_that_are_not_utf8(root):
    strange = os.fsdecode(b"caf\xe9.png")
    put(root / "train/a" / strange)
    images = data.load("folder", root)
    assert images.train_count == 3
    (root / "train/a" / strange).write_bytes(b"no image")
    with pytest.raises(data.DataMissing, match="caf\udce9.png is not an image"):
        data.load("folder", root)
    put(root / "train" / os.fsdecode(b"c\xe9") / "0.png")
    text = re.escape("train/c\\udce9': the name of a class must be UTF-8")
    with pytest.raises(data.DataMissing, match=text) as caught:
        data.load("folder", root)
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_the_part_that_is_held_out(name, root):
    def held(part=None):
        images = data.load(name, root, part=part)
        return images.test_count, images.train_count

    assert held() == held("val") == (2, 2)
    put(*(root / "test" / label / f"{i}.png" for label in "ab" for i in range(3)))
    assert held() == (2, 2)  # training sees no test images
    assert held("test") == (6, 2) and held("train") == (2, 2)
    (root / "val").rename(root / "other")
    assert held() == (6, 2)
    with pytest.raises(data.DataMissing, match=f"{root} must hold train/.*but has no val/"):
        held("val")
    (root / "test").rename(root / "tests")
    with pytest.raises(data.DataMissing, match="but has no val/ and no test/"):
        held()
    with pytest.raises(ValueError, match="part must be one of train, val, test, got 'tests'"):
        held("tests")
    for part in ("val", "train"):
        with pytest.raises(ValueError, match=f"part must be test, as digits has .* got '{part}'"):
            data.load("digits", part=part)
    assert data.load("digits", part="test").test_count == 355


def test_the_training_part_can_be_evaluated(root):
    put(root / "train/b/1.png")
    Image.new("RGB", (8, 8), "blue").save(root / "train/b/1.png")
    for name in ("folder", "imagenet"):
        images = data.load(name, root, part="train")
        ((x, y),) = images.test_batches([torch.arange(3)], "cpu")
        assert y.tolist() == [0, 1, 1] and x[2, 2].min() > x[2, 0].max()
