"""Readers of image sets, on the real files where they are and on stand-ins in the same format."""

import gzip
import hashlib
import pickle
import sys

import numpy as np
import pytest
import torch

from models import data


def check(images, classes):
    assert images.classes == classes
    for x, y in ((images.train_x, images.train_y), (images.test_x, images.test_y)):
        assert x.dtype == torch.uint8 and x.shape[1:] == (3, 32, 32) and len(x) == len(y) > 0
        assert y.dtype == torch.int64 and y.min() >= 0 and y.max() < classes
    pixels = data.normalise(images, images.train_x)
    # A sum of a million float32 terms is exact to about a thousandth of its deviation.
    assert pixels.mean((0, 2, 3)).abs().max() < 1e-2
    assert (pixels.std((0, 2, 3)) - 1).abs().max() < 1e-2


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
    short = idx(written["train"][1])[:-3]
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(short))
    with pytest.raises(data.DataMissing, match="is not a complete IDX file"):
        data.load("fashion-mnist", tmp_path)


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
    assert images.flip


def test_folder(tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from PIL import Image

    with pytest.raises(data.DataMissing, match="name it with --data-dir"):
        data.load("folder")
    with pytest.raises(data.DataMissing, match="train/ is not there"):
        data.load("folder", tmp_path)
    for part, classes in (("train", "ab"), ("val", "ab"), ("test", "abc")):
        for at, label in enumerate(classes):
            (tmp_path / part / label).mkdir(parents=True)
            for shade in (40, 200):
                image = Image.new("RGB", (48, 40), (shade, 100 * at, 7 * shade % 256))
                image.save(tmp_path / part / label / f"{shade}.png")
    with pytest.raises(data.DataMissing, match="must have the same classes"):
        data.load("folder", tmp_path)
    (tmp_path / "test").rename(tmp_path / "other")
    images = data.load("folder", tmp_path)
    assert images.classes == 2 and images.train_y.tolist() == [0, 0, 1, 1]
    assert images.test_x[0, 0].unique().item() in (40, 200)


def test_missing_libraries_are_named(monkeypatch, tmp_path):
    for module in ("sklearn.datasets", "torchvision"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(data.DataMissing, match="pip install scikit-learn"):
        data.load("digits")
    for name in ("cifar10", "cifar100", "folder"):
        with pytest.raises(data.DataMissing, match="pip install torchvision"):
            data.load(name, tmp_path)
