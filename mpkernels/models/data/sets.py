"""Image sets by name. All but imagenet are held in memory as bytes: 32x32 pixels, 3 channels."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from . import folders
from .images import STATISTICS, DataMissing, DataSet, Images, pixel_statistics

# Where Debian's package dataset-fashion-mnist puts its files.
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def _images(
    name: str, sets: Iterable[tuple[Tensor, Tensor]], names: Iterable[str], flip: bool = True
) -> Images:
    """A data set of two pairs of images and labels, for training and for the test."""
    train, test = sets
    mean, std = STATISTICS[name] if name in STATISTICS else pixel_statistics(train[0])
    return Images(*train, *test, tuple(names), mean, std, flip)


def _three_channels(gray: Tensor) -> Tensor:
    return gray.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()


def _digits(folder: Path | None) -> Images:
    """1,797 scanned digits of 8x8 pixels, enlarged; a fifth is the test set.

    Digits are not mirrored, as that gives another shape and not another example.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataMissing(
            "digits are bundled with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    raw, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(raw).float().view(-1, 1, 8, 8) * (255 / 16)
    large = interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    x = _three_channels(large.squeeze(1).round().to(torch.uint8))
    y = torch.from_numpy(labels).long()
    # The test set is every fifth example of a class: both sets have the same shares of classes.
    rank = torch.zeros(len(y), dtype=torch.long)
    for label in range(10):
        of_class = (y == label).nonzero().flatten()
        rank[of_class] = torch.arange(len(of_class))
    test = rank % 5 == 4
    return _images(
        "digits", ((x[part], y[part]) for part in (~test, test)), "0123456789", flip=False
    )


def _idx(path: Path) -> Tensor:
    try:
        with gzip.open(path, "rb") as file:
            header = file.read(4)
            sizes = [int.from_bytes(file.read(4), "big") for _ in range(header[3])]
            values = np.frombuffer(file.read(), dtype=np.uint8)
    except (OSError, EOFError, IndexError, zlib.error) as error:
        raise DataMissing(f"{path} is damaged or not whole: {error}") from error
    if header[:3] != b"\x00\x00\x08" or values.size != int(np.prod(sizes)):
        raise DataMissing(f"{path} is not a complete IDX file of bytes")
    return torch.from_numpy(values.copy()).view(sizes)


def _fashion_mnist(folder: Path | None) -> Images:
    """60,000 and 10,000 pictures of clothes, 28x28 pixels padded to 32x32."""
    folder = folder or FASHION_MNIST
    names = [
        f"{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise DataMissing(
            f"fashion-mnist: {folder} has no {', '.join(missing)}. On Debian and Ubuntu: "
            "apt install dataset-fashion-mnist. Elsewhere download them and name their folder with "
            '--data-dir: python -c "import torchvision; '
            "torchvision.datasets.FashionMNIST('data', download=True)\" puts them into "
            "data/FashionMNIST/raw"
        )
    sets = []
    for images, labels in (names[:2], names[2:]):
        x, y = _idx(folder / images), _idx(folder / labels)
        if x.shape[1:] != (28, 28):
            raise DataMissing(
                f"{folder / images} must hold images of 28x28, got {list(x.shape[1:])}"
            )
        if y.shape != x.shape[:1] or y.max() >= len(CLOTHES):
            raise DataMissing(
                f"{folder / labels} must hold a label below {len(CLOTHES)} for each of "
                f"{len(x)} images, got {list(y.shape)} up to {y.max()}"
            )
        sets.append((_three_channels(pad(x, (2, 2, 2, 2))), y.long()))
    return _images("fashion-mnist", sets, CLOTHES)


def _torchvision(name: str) -> Any:
    try:
        import torchvision
    except ImportError as error:
        raise DataMissing(f"{name} is read with torchvision: pip install torchvision") from error
    return torchvision


def _cifar(name: str) -> Callable[[Path | None], Images]:
    def read(folder: Path | None) -> Images:
        kind = getattr(_torchvision(name).datasets, name.upper())
        folder = folder or Path("data")
        try:
            train, test = (kind(str(folder), train=part) for part in (True, False))
        except RuntimeError as error:
            raise DataMissing(
                f"{name}: {folder} does not hold the data set ({error}). To download it: "
                f"python -c \"import torchvision; torchvision.datasets.{name.upper()}('{folder}', "
                'download=True)"; another folder is named with --data-dir'
            ) from error
        sets = (
            (
                torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
                torch.tensor(part.targets),
            )
            for part in (train, test)
        )
        return _images(name, sets, train.classes)

    return read


def _folder(folder: Path | None) -> Images:
    """Images in train/CLASS/ and test/CLASS/ (or val/CLASS/), resized to 32x32."""
    _torchvision("folder")
    if folder is None:
        raise DataMissing(
            "folder: name it with --data-dir; it holds train/CLASS/* and test/CLASS/*"
        )
    test = "test" if (folder / "test").is_dir() else "val"
    *parts, names = folders.find(folder, test)
    sets = (
        (
            torch.stack([folders.picture(path, 32) for path, _ in part]),
            torch.tensor([label for _, label in part]),
        )
        for part in parts
    )
    return _images("folder", sets, names)


def _in_memory(read: Callable[[Path | None], Images]) -> Reader:
    def load_part(
        folder: Path | None, limit: int | None, classes: int | None, workers: int
    ) -> DataSet:
        if classes is not None:
            raise ValueError(f"classes are chosen of imagenet alone, got {classes}")
        images = read(folder)
        if limit is None:
            return images
        count, generator = images.train_count, torch.Generator().manual_seed(0)
        order = torch.randperm(count, generator=generator)[:limit]
        return replace(images, train_x=images.train_x[order], train_y=images.train_y[order])

    return load_part


def _imagenet(folder: Path | None, limit: int | None, classes: int | None, workers: int) -> DataSet:
    """Images of 224x224 pixels from folders, see `models.data.folders`."""
    _torchvision("imagenet")
    if folder is None or not (folder / "train").is_dir():
        raise DataMissing(
            f"imagenet: {'no folder is named' if folder is None else f'{folder} has no train/'}. "
            "--data-dir names one that holds train/CLASS/* and val/CLASS/*. From image-net.org's "
            "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz in "
            'a folder DIR they are made by python -c "from torchvision.datasets import ImageNet; '
            "[ImageNet('DIR', part) for part in ('train', 'val')]\""
        )
    return folders.read(folder, classes, limit, workers)


Reader = Callable[[Path | None, int | None, int | None, int], DataSet]
SETS: dict[str, Reader] = {
    "digits": _in_memory(_digits),
    "fashion-mnist": _in_memory(_fashion_mnist),
    "cifar10": _in_memory(_cifar("cifar10")),
    "cifar100": _in_memory(_cifar("cifar100")),
    "folder": _in_memory(_folder),
    "imagenet": _imagenet,
}


def load(
    name: str,
    folder: Path | None = None,
    limit: int | None = None,
    classes: int | None = None,
    workers: int = 0,
) -> Any:
    """Reads a data set.

    Args:
        name: one of `SETS`.
        folder: where its files are, if not in the usual place.
        limit: how many training images to keep, chosen once by a fixed shuffle.
        classes: how many classes of imagenet to use, the first ones.
        workers: number of processes that read imagenet in the background.

    Returns:
        a `DataSet`; all but imagenet are `Images`, held in memory.

    Raises:
        ValueError: the name is unknown, or a number is out of range.
        DataMissing: its files or the library that reads them are missing, or a file is damaged.
    """
    if name not in SETS:
        raise ValueError(f"data must be one of {', '.join(SETS)}, got {name!r}")
    for what, value, least in (
        ("limit", limit, 1),
        ("classes", classes, 1),
        ("workers", workers, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f"{what} must be at least {least}, got {value}")
    return SETS[name](folder, limit, classes, workers)
