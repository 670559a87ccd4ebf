"""Readers of image sets, on the real files if present and on fakes in the same format."""

import gzip
import hashlib
import pickle
import re
import sys

import numpy as np
import pytest
import torch

from models import data
from models.data.__main__ import main
from models.data.images import STATISTICS, pixel_statistics


def check(images, classes):
    assert images.classes == len(images.names) == classes
    for x, y in ((images.train_x, images.train_y), (images.test_x, images.test_y)):
        assert x.dtype == torch.uint8 and x.shape[1:] == (3, 32, 32) and len(x) == len(y) > 0
        assert y.dtype == torch.int64 and y.min() >= 0 and y.max() < classes


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "cifar10", "cifar100"])
def test_the_constants_are_the_statistics_of_the_real_images(name):
    try:
        images = data.load(name)
    except data.DataMissing as error:
        pytest.skip(str(error))
    assert STATISTICS[name] == (images.mean, images.std)
    for expected, constant in zip(pixel_statistics(images.train_x), (images.mean, images.std)):
        assert constant == pytest.approx(expected, abs=5e-7)  # they have six digits


def test_statistics_and_what_they_normalise():
    x = torch.randint(0, 256, (50, 3, 7, 5), dtype=torch.uint8)
    x[:, 1] //= 2
    x[:, 2] //= 3
    mean, std = pixel_statistics(x)
    pixels = x.double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), rel=1e-12)
    images = data.Images(x, x, x, x, ("a",), mean, std, flip=False)
    normal = data.normalise(images, x).double()
    assert normal.mean((0, 2, 3)).abs().max() < 1e-6
    assert (normal.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6
    assert pixel_statistics(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)) == ((0,) * 3, (1e-3,) * 3)


def test_digits():
    images = data.load("digits")
    check(images, 10)
    assert len(images.train_y) + len(images.test_y) == 1797
    shares = torch.bincount(images.test_y) / torch.bincount(images.train_y)
    assert shares.min() > 0.22 and shares.max() < 0.26
    assert not images.flip
    assert torch.equal(images.train_x, data.load("digits").train_x)


def test_limit_keeps_the_same_images():
    few, more = data.load("digits", limit=10), data.load("digits", limit=20)
    assert len(few.train_y) == 10 and torch.equal(few.train_x, more.train_x[:10])
    assert len(few.test_y) == len(data.load("digits").test_y)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        data.load("digits", limit=0)
    with pytest.raises(ValueError, match="data must be one of digits.*got 'mnist'"):
        data.load("mnist")


def idx(values):
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return b"\x00\x00\x08" + bytes([values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def test_fashion_mnist(tmp_path):
    with pytest.raises(data.DataMissing, match="apt install dataset-fashion-mnist.*--data-dir"):
        data.load("fashion-mnist", tmp_path)
    rng = np.random.default_rng(0)
    written = {}
    for part, count in (("train", 20), ("t10k", 5)):
        written[part] = rng.integers(0, 256, (count, 28, 28)), rng.integers(0, 10, count)
        for kind, values in zip(("images-idx3", "labels-idx1"), written[part]):
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    images = data.load("fashion-mnist", tmp_path)
    check(images, 10)
    assert torch.equal(
        images.test_x[:, 1, 2:30, 2:30], torch.tensor(written["t10k"][0]).to(torch.uint8)
    )
    assert images.test_x[:, :, :2].max() == 0
    assert images.train_y.tolist() == written["train"][1].tolist()
    assert images.names[9] == "Ankle boot"


def test_fashion_mnist_that_is_damaged(tmp_path):
    whole = {"images-idx3": np.zeros((3, 28, 28)), "labels-idx1": np.arange(3)}
    for part in ("train", "t10k"):
        for kind, values in whole.items():
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    assert data.load("fashion-mnist", tmp_path).train_count == 3
    labels, images = (gzip.compress(idx(whole[kind])) for kind in ("labels-idx1", "images-idx3"))
    for kind, content, reason in (
        ("labels-idx1", gzip.compress(idx(np.arange(3))[:-1]), "is not a complete IDX file"),
        ("labels-idx1", gzip.compress(b""), "damaged or not whole"),
        ("labels-idx1", labels[:-9], "damaged or not whole: Compressed file ended"),
        ("labels-idx1", b"no gz at all", "damaged or not whole: Not a gzipped file"),
        ("labels-idx1", labels[:12] + b"\xff\xff" + labels[14:], "damaged or not whole"),
        ("labels-idx1", gzip.compress(idx(np.arange(2))), r"each of 3 images, got \[2\] up to 1"),
        (
            "labels-idx1",
            gzip.compress(idx(np.arange(8, 11))),
            r"label below 10 .* got \[3\] up to 10",
        ),
        ("images-idx3", gzip.compress(idx(np.zeros((3, 28, 27)))), r"28x28, got \[28, 27\]"),
    ):
        path = tmp_path / f"t10k-{kind}-ubyte.gz"
        path.write_bytes(content)
        with pytest.raises(data.DataMissing, match=f"{path} .*{reason}"):
            data.load("fashion-mnist", tmp_path)
        path.write_bytes(images if kind == "images-idx3" else labels)


def pickled(path, content):
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar(name, classes, tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    with pytest.raises(data.DataMissing, match=f"{name}: .*download=True.*--data-dir"):
        data.load(name, tmp_path)
    kind = getattr(torchvision.datasets, name.upper())
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    key = "labels" if name == "cifar10" else "fine_labels"

    def batch(count):
        return {"data": rng.integers(0, 256, (count, 3072), np.uint8), key: list(range(count))}

    train = [(f, pickled(folder / f, batch(4))) for f, _ in kind.train_list]
    test = [(f, pickled(folder / f, batch(3))) for f, _ in kind.test_list]
    names = {kind.meta["key"]: [str(i) for i in range(classes)]}
    meta = {**kind.meta, "md5": pickled(folder / kind.meta["filename"], names)}
    for attribute, value in (("train_list", train), ("test_list", test), ("meta", meta)):
        monkeypatch.setattr(kind, attribute, value)
    images = data.load(name, tmp_path)
    check(images, classes)
    assert len(images.train_y) == 4 * len(train) and images.test_y.tolist() == [0, 1, 2]
    assert images.flip and images.names == tuple(names[kind.meta["key"]])
    (folder / train[0][0]).write_bytes(b"not what was downloaded")
    with pytest.raises(data.DataMissing, match=f"{name}: .*corrupted.*download=True"):
        data.load(name, tmp_path)


def test_folder(tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from PIL import Image

    with pytest.raises(data.DataMissing, match="name it with --data-dir"):
        data.load("folder")
    with pytest.raises(data.DataMissing, match="must hold train/CLASS.*No such file.*train"):
        data.load("folder", tmp_path)
    for part, classes in (("train", "ab"), ("val", "ab"), ("test", "abc")):
        for index, label in enumerate(classes):
            (tmp_path / part / label).mkdir(parents=True)
            for shade in (40, 200):
                image = Image.new("RGB", (48, 40), (shade, 100 * index, 7 * shade % 256))
                image.save(tmp_path / part / label / f"{shade}.png")
    with pytest.raises(data.DataMissing, match="must have the same classes, but only one has c"):
        data.load("folder", tmp_path)
    (tmp_path / "test").rename(tmp_path / "other")
    images = data.load("folder", tmp_path)
    assert images.classes == 2 and images.train_y.tolist() == [0, 0, 1, 1]
    assert images.names == ("a", "b") and images.test_x[0, 0].unique().item() in (40, 200)
    assert (images.mean, images.std) == pixel_statistics(images.train_x)
    (tmp_path / "val" / "b" / "200.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(data.DataMissing, match="val/b/200.png is not an image, or not whole"):
        data.load("folder", tmp_path)


def test_the_speed_of_reading(capsys):
    assert main(["digits", "--batch-size", "8", "--device", "cpu"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert "batches of 8" in head and "load before" in head
    median, least, most = map(float, re.fullmatch(
        r"digits, 0 workers: (\d+) \[(\d+), (\d+)\]", line).groups())  # fmt: skip
    assert 0 < least <= median <= most
    for arguments, reason in (
        (["digits", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["digits", "--workers", "-1"], "workers must be at least 0, got -1"),
        (["imagenet"], "imagenet: no folder is named"),
    ):
        assert main(arguments) == 2
        assert f"error: {reason}" in capsys.readouterr().err


def test_missing_libraries_are_named(monkeypatch, tmp_path):
    for module in ("sklearn.datasets", "torchvision"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(data.DataMissing, match="pip install scikit-learn"):
        data.load("digits")
    for name in ("cifar10", "cifar100", "folder"):
        with pytest.raises(data.DataMissing, match="pip install torchvision"):
            data.load(name, tmp_path)
