"""IDX files, packed or not: those of Fashion-MNIST, and what is wrong with others."""

import gzip
import re
import tracemalloc

import numpy as np
import pytest
import torch

from models import data
from models.data import idx

WHOLE = {"images-idx3": np.zeros((3, 28, 28)), "labels-idx1": np.arange(3)}


def packed(values, sizes=None):
    """An IDX file of bytes, with the sizes of `values` or with others."""
    sizes = b"".join(size.to_bytes(4, "big") for size in sizes or values.shape)
    return b"\x00\x00\x08" + bytes([values.ndim]) + sizes + values.astype(np.uint8).tobytes()


@pytest.mark.parametrize("end", ["", ".gz"])
def test_fashion_mnist(end, tmp_path):
    with pytest.raises(data.DataMissing, match="apt install dataset-fashion-mnist.*--data-dir"):
        data.load("fashion-mnist", tmp_path)
    rng = np.random.default_rng(0)
    written = {}
    for part, count in (("train", 20), ("t10k", 5)):
        written[part] = rng.integers(0, 256, (count, 28, 28)), rng.integers(0, 10, count)
        for kind, values in zip(WHOLE, written[part]):
            content = packed(values)
            content = gzip.compress(content) if end else content
            (tmp_path / f"{part}-{kind}-ubyte{end}").write_bytes(content)
    images = data.load("fashion-mnist", tmp_path)
    assert torch.equal(
        images.test_x[:, 1, 2:30, 2:30], torch.tensor(written["t10k"][0]).to(torch.uint8)
    )
    assert images.test_x[:, :, :2].max() == 0 and images.test_x.shape == (5, 3, 32, 32)
    assert images.train_y.tolist() == written["train"][1].tolist()
    assert images.names[9] == "Ankle boot" and images.classes == 10


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("labels-idx1", packed(np.arange(3))[:-1], "must hold 3 bytes after its header, got 2"),
        ("labels-idx1", packed(np.arange(4), [3]), "3 bytes after its header, got 4 or more"),
        ("labels-idx1", packed(np.arange(3))[:6], "damaged or not whole"),
        ("labels-idx1", b"", "must begin as an IDX file .* 00 00 08 01, got nothing"),
        ("labels-idx1", packed(np.zeros((3, 1))), "00 00 08 01, got 00 00 08 02"),
        ("labels-idx1", packed(np.arange(2)), r"each of 3 images, got \[2\] up to 1"),
        ("labels-idx1", packed(np.arange(8, 11)), r"label below 10 .* got \[3\] up to 10"),
        ("labels-idx1", packed(np.arange(0)), r"1 to 70,000 items of \[\], got 0 of \[\]"),
        ("images-idx3", packed(np.zeros((0, 28, 28))), r"of \[28, 28\], got 0 of \[28, 28\]"),
        ("images-idx3", packed(np.zeros((3, 28, 27))), r"\[28, 28\], got 3 of \[28, 27\]"),
        ("images-idx3", packed(WHOLE["images-idx3"], [2**32 - 1, 28, 28]), "got 4,294,967,295 of"),
        ("images-idx3", packed(WHOLE["images-idx3"], [60_000, 28, 28]), "got 2,352"),
    ],
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_files_that_are_damaged(kind, content, reason, end, tmp_path):
    for part in ("train", "t10k"):
        for whole, values in WHOLE.items():
            name = f"{part}-{whole}-ubyte{end}"
            (tmp_path / name).write_bytes(gzip.compress(packed(values)) if end else packed(values))
    assert data.load("fashion-mnist", tmp_path).train_count == 3
    path = tmp_path / f"t10k-{kind}-ubyte{end}"
    path.write_bytes(gzip.compress(content) if end else content)
    with pytest.raises(data.DataMissing, match=f"{path} .*{reason}"):
        data.load("fashion-mnist", tmp_path)


def test_packed_files_that_are_damaged(tmp_path):
    path, labels = tmp_path / "labels.gz", gzip.compress(packed(np.arange(3)))
    for content, reason in (
        (labels[:-9], "Compressed file ended"),
        (b"no gz at all", "Not a gzipped file"),
        (labels[:-6] + bytes(6), "CRC check failed"),
    ):
        path.write_bytes(content)
        with pytest.raises(data.DataMissing, match=f"{path} is damaged or not whole: {reason}"):
            idx.read(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(data.DataMissing, match="folder cannot be read: Is a directory"):
        idx.read(tmp_path / "folder")


@pytest.mark.parametrize("count", [3, 70_000])
def test_a_bomb_is_not_unpacked(count, tmp_path):
    """More than its header promises, or a promise that nothing keeps, takes no memory."""
    path = tmp_path / "images.gz"
    content = b"\x00\x00\x08\x03" + np.array([count, 28, 28], ">u4").tobytes()
    path.write_bytes(gzip.compress(content + bytes(2**28 if count == 3 else 10)))
    tracemalloc.start()
    with pytest.raises(
        data.DataMissing, match=re.escape(f"{path} must hold {count * 784:,} bytes")
    ):
        idx.read(path, (28, 28))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 784 * count + 2**22
