"""Images in folders laid out as ImageNet: crops, classes, workers, and errors."""

import multiprocessing
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import data
from models.data import folders
from models.data.folders import CROP, RESIZED
from models.data.images import STATISTICS
from models.train import main

pytest.importorskip("torchvision", reason="torchvision is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A hundred classes, each with one training and one test image of odd sizes."""
    from PIL import Image

    root = tmp_path_factory.mktemp("imagenet")
    noise = torch.Generator().manual_seed(0)
    for label in range(100):
        for part in ("train", "val"):
            path = root / part / f"n{label:08d}"
            path.mkdir(parents=True)
            size = (61 + label % 7, 47 + label % 5)
            pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=noise)
            Image.fromarray(pixels.numpy()).save(path / "image.png")
    return root


def bytes_of(x):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in STATISTICS["imagenet"])
    return ((x * std + mean) * 255).round()


def whole(folder, part, label):
    """The image from which crops are taken, decoded and resized by torchvision without PIL."""
    from torchvision.io import decode_image
    from torchvision.transforms.v2 import functional

    picture = decode_image(str(folder / part / f"n{label:08d}" / "image.png"))
    return functional.resize(picture, [RESIZED, RESIZED], antialias=True).float()


def test_a_hundred_classes(folder):
    images = data.load("imagenet", folder)
    assert (images.classes, images.train_count, images.test_count) == (100, 100, 100)
    assert images.size == CROP
    some = data.load("imagenet", folder, classes=7)
    assert some.classes == 7 and some.train_count == 7
    assert some.names == tuple(f"n{label:08d}" for label in range(7))
    assert data.load("imagenet", folder, limit=5).train_count == 5
    ((x, y),) = some.test_batches([torch.tensor([3, 6])], "cpu")
    assert x.shape == (2, 3, CROP, CROP) and y.tolist() == [3, 6]


def test_ten_crops_are_slices_of_the_image(folder):
    images, edge, middle = data.load("imagenet", folder, classes=3), RESIZED - CROP, 16
    ((x, _),) = images.test_batches([torch.tensor([2])], "cpu", 10)
    picture = whole(folder, "val", 2)
    corners = [(0, 0), (0, edge), (edge, 0), (edge, edge), (middle, middle)]
    expected = [picture[:, t : t + CROP, left : left + CROP] for t, left in corners]
    mirrored = picture.flip(2)
    expected += [mirrored[:, t : t + CROP, left : left + CROP] for t, left in corners]
    assert torch.equal(bytes_of(x[0]), torch.stack(expected))
    ((one, _),) = images.test_batches([torch.tensor([2])], "cpu")
    assert torch.equal(one[0], x[0, 4])
    with pytest.raises(ValueError, match="crops must be 1 or 10, got 5"):
        next(images.test_batches([], "cpu", 5))
    with pytest.raises(ValueError, match="crops must be 1: .* whole, got 10"):
        next(data.load("digits", limit=1).test_batches([], "cpu", 10))


def test_a_crop_follows_from_seed_epoch_and_image(folder):
    def read(parts, workers=0, seed=0, epoch=0):
        images = data.load("imagenet", folder, classes=6, workers=workers)
        batches = images.train_batches(map(torch.tensor, parts), 0, seed, epoch, "cpu")
        return torch.cat([x for x, _ in batches])

    together = read([[0, 1, 2, 3, 4, 5]])
    assert torch.equal(together, read([[0, 1], [2, 3, 4], [5]], workers=2))
    assert torch.equal(together[[4, 1]], read([[4, 1]]))
    for other in (read([[0, 1, 2, 3, 4, 5]], seed=1), read([[0, 1, 2, 3, 4, 5]], epoch=1)):
        assert not torch.equal(together, other)
    picture, crop = whole(folder, "train", 3), bytes_of(together[3])
    windows = (
        image[:, top : top + CROP, left : left + CROP]
        for image in (picture, picture.flip(2))
        for top in range(RESIZED - CROP + 1)
        for left in range(RESIZED - CROP + 1)
    )
    assert any(torch.equal(crop[:, 0], w[:, 0]) and torch.equal(crop, w) for w in windows)


def test_what_can_be_wrong(folder, tmp_path):
    with pytest.raises(data.DataMissing, match="imagenet: no folder is named.*--data-dir.*python"):
        data.load("imagenet")
    with pytest.raises(data.DataMissing, match=f"{tmp_path} has no train/.*ILSVRC2012_img_train"):
        data.load("imagenet", tmp_path)
    with pytest.raises(ValueError, match="classes must be at most 100, .* got 101"):
        data.load("imagenet", folder, classes=101)
    with pytest.raises(ValueError, match="classes are chosen of imagenet alone, got 3"):
        data.load("digits", classes=3)
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        data.load("imagenet", folder, workers=-1)
    for label in "ab":
        (tmp_path / "train" / label).mkdir(parents=True)
    with pytest.raises(data.DataMissing, match="train has no image in a, b; what is read: .*.png"):
        data.load("imagenet", tmp_path)
    for label in "ab":
        (tmp_path / "train" / label / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "image.png").touch()
    with pytest.raises(
        data.DataMissing, match="val must hold a folder for each class, got none and 1 f"
    ):
        data.load("imagenet", tmp_path)
    (tmp_path / "train" / "a").rename(tmp_path / "val" / "c")
    (tmp_path / "train" / "b").rename(tmp_path / "train" / "a")
    with pytest.raises(data.DataMissing, match="same classes, but only one has a, c"):
        data.load("imagenet", tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_no_image_is_named(folder, tmp_path, workers):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        whole = (folder / part / "n00000000" / "image.png").read_bytes()
        (tmp_path / part / "a" / "image.png").write_bytes(whole if part == "train" else whole[:99])
    others = set(multiprocessing.active_children())
    images = data.load("imagenet", tmp_path, workers=workers)
    with pytest.raises(data.DataMissing) as caught:
        list(images.test_batches([torch.tensor([0])], "cpu"))
    assert set(multiprocessing.active_children()) <= others  # none waits for the exception to go
    assert str(caught.value).startswith(f"{tmp_path}/val/a/image.png is not an image, or not whole")
    assert "\n" not in str(caught.value)


class Elsewhere(data.DataMissing):
    """The same error from a class in another module."""


class Unreadable(folders.Crops):
    def crop(self, index):
        raise Elsewhere(f"image {index} cannot be read:\nthe reason")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_says_does_not_depend_on_where_its_error_is_defined(folder, workers):
    images = data.load("imagenet", folder, workers=workers)
    with pytest.raises(Elsewhere) as caught:
        list(images._batches(Unreadable(), images.test, [torch.tensor([3, 4])], "cpu"))
    assert str(caught.value) == "image 3 cannot be read:\nthe reason"


def open_to_sigterm(process):
    """The threads that do not block it: one waits for it, any other would end the process."""
    status = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/status")]
    blocked = [int(re.search(r"SigBlk:\s*(\w+)", text)[1], 16) for text in status]
    return [mask for mask in blocked if not mask >> (signal.SIGTERM - 1) & 1]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads Linux's /proc")
def test_ctrl_c_and_sigterm_do_not_stop_the_reading_processes(folder):
    others = set(multiprocessing.active_children())
    images = data.load("imagenet", folder, workers=2)
    batches = images.test_batches(torch.arange(100).split(10), "cpu")
    labels = [next(batches)[1] for _ in range(2)]  # then both have begun
    readers = set(multiprocessing.active_children()) - others
    assert len(readers) == 2
    assert all(len(open_to_sigterm(reader)) <= 1 for reader in readers)
    for reader, number in zip(readers, ("-INT", "-TERM")):
        subprocess.run(["kill", number, str(reader.pid)], check=True)
    labels += [y for _, y in batches]
    assert torch.equal(torch.cat(labels), torch.arange(100))
    assert not readers & set(multiprocessing.active_children())


READS = """
import sys, torch
from pathlib import Path
from models import data

images = data.load("imagenet", Path(sys.argv[1]), workers=2)
batches = images.test_batches(torch.arange(100).split(10), "cpu")
next(batches)
print(1 / 0)
"""


def test_a_program_ends_although_its_readers_wait(folder):
    result = subprocess.run(
        [sys.executable, "-c", READS, folder], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1 and result.stderr.endswith(
        "ZeroDivisionError: division by zero\n"
    )


def test_trains_from_the_command_line(folder, tmp_path):
    small = ["--option", "stages=((2,),)", "--option", "dense=(2,2)", "--epochs", "1"]
    data_of = ["--data", "imagenet", "--data-dir", str(folder), "--classes", "3", "--limit", "2"]
    out = ["--batch-size", "2", "--out", str(tmp_path / "run")]
    assert main(["basecnn_2_cc", *data_of, *small, *out]) == 0
