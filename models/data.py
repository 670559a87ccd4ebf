"""Image sets, whole in memory as bytes: 32x32 pixels, three channels."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from models.augment import augment, seeded

# Where Debian's package dataset-fashion-mnist puts its files.
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


class DataMissing(RuntimeError):
    """Images or the library that reads them are not there; the message says how to get them."""


class DataSet(Protocol):
    """What training and evaluation need of a data set."""

    @property
    def classes(self) -> int:
        """Number of labels."""

    @property
    def size(self) -> int:
        """Height and width of the batches' images."""

    @property
    def train_count(self) -> int:
        """Number of training images."""

    @property
    def test_count(self) -> int:
        """Number of test images."""

    def train_batches(
        self, parts: Iterable[Tensor], shift: int, seed: int, epoch: int, device: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented training images, normalised.

        How an image is augmented follows from (seed, epoch, image): it does not depend on the
        batch that it is in, on the step at which a run resumes or on the process that reads it.

        Args:
            parts: the indices of each batch.
            shift: images are moved by up to so many pixels.
            seed, epoch: of the augmentation.
            device: where the batches are wanted.

        Yields:
            images, float32 [B, 3, size, size], and labels, int64 [B].
        """

    def test_batches(self, parts: Iterable[Tensor], device: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Test images, normalised: as `train_batches` without chance."""


@dataclass(frozen=True)
class Images:
    """A training and a test set, in memory.

    Args:
        train_x, test_x: uint8 [N, 3, 32, 32].
        train_y, test_y: int64 [N], below `classes`.
        mean, std: of the training pixels scaled to [0, 1], per channel.
        flip: whether a mirrored image keeps its label.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return self.train_x.shape[-1]

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train_y)

    @property
    def test_count(self) -> int:
        """Number of test images."""
        return len(self.test_y)

    def train_batches(
        self, parts: Iterable[Tensor], shift: int, seed: int, epoch: int, device: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `DataSet`."""
        generator = seeded(seed, epoch)
        offsets = torch.randint(0, 2 * shift + 1, (2, self.train_count), generator=generator)
        mirrored = torch.rand(self.train_count, generator=generator) < 0.5 * self.flip
        for index in parts:
            x = normalise(self, self.train_x[index].to(device))
            x = augment(x, shift, offsets[:, index].to(device), mirrored[index].to(device))
            yield x, self.train_y[index].to(device)

    def test_batches(self, parts: Iterable[Tensor], device: str) -> Iterator[tuple[Tensor, Tensor]]:
        """See `DataSet`."""
        for index in parts:
            yield normalise(self, self.test_x[index].to(device)), self.test_y[index].to(device)


def normalise(images: Images, x: Tensor) -> Tensor:
    """Bytes [B, 3, H, W] to float32 with the training set's mean 0 and deviation 1."""
    mean, std = (
        torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (images.mean, images.std)
    )
    return (x.float() / 255 - mean) / std


def _rgb(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _images(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, classes: int, flip: bool
) -> Images:
    pixels = train_x.float().div(255).transpose(0, 1).flatten(1)
    mean, std = pixels.mean(1).tolist(), pixels.std(1).clamp_min(1e-3).tolist()
    return Images(train_x, train_y, test_x, test_y, classes, _rgb(mean), _rgb(std), flip)


def _three_channels(gray: Tensor) -> Tensor:
    return gray.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()


def _digits(folder: Path | None) -> Images:
    """1,797 scanned digits of 8x8 pixels, enlarged; a fifth is the test set.

    Mirroring is off: a mirrored digit is another shape, not another example.
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
    # Every fifth example of each class, so that both sets have the same share of classes.
    rank = torch.zeros(len(y), dtype=torch.long)
    for label in range(10):
        of_class = (y == label).nonzero().flatten()
        rank[of_class] = torch.arange(len(of_class))
    test = rank % 5 == 4
    return _images(x[~test], y[~test], x[test], y[test], 10, flip=False)


def _idx(path: Path) -> Tensor:
    with gzip.open(path, "rb") as file:
        header = file.read(4)
        sizes = [int.from_bytes(file.read(4), "big") for _ in range(header[3])]
        values = np.frombuffer(file.read(), dtype=np.uint8)
    if header[:3] != b"\x00\x00\x08" or values.size != int(np.prod(sizes)):
        raise DataMissing(f"{path} is not a complete IDX file of bytes")
    return torch.from_numpy(values.copy()).view(sizes)


def _fashion_mnist(folder: Path | None) -> Images:
    """60,000 and 10,000 pictures of clothes of 28x28 pixels, padded to 32x32."""
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
            "apt install dataset-fashion-mnist. Elsewhere put the four gz files of the data set "
            "into a folder and name it with --data-dir"
        )
    train_x, train_y, test_x, test_y = (_idx(folder / name) for name in names)
    train_x, test_x = (_three_channels(pad(x, (2, 2, 2, 2))) for x in (train_x, test_x))
    return _images(train_x, train_y.long(), test_x, test_y.long(), 10, flip=True)


def _torchvision(name: str) -> Any:
    try:
        import torchvision
    except ImportError as error:
        raise DataMissing(f"{name} is read with torchvision: pip install torchvision") from error
    return torchvision


def _cifar(name: str, classes: int) -> Callable[[Path | None], Images]:
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
        x, test_x = (
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)
        )
        y, test_y = (torch.tensor(part.targets) for part in (train, test))
        return _images(x, y, test_x, test_y, classes, flip=True)

    return read


def _folder(folder: Path | None) -> Images:
    """Images in train/CLASS/ and test/CLASS/ (or val/CLASS/), resized to 32x32."""
    torchvision = _torchvision("folder")
    if folder is None:
        raise DataMissing(
            "folder: name it with --data-dir; it holds train/CLASS/* and test/CLASS/*"
        )
    test = folder / ("test" if (folder / "test").is_dir() else "val")
    sets = []
    for part in (folder / "train", test):
        if not part.is_dir():
            raise DataMissing(
                f"folder: {folder} must hold train/CLASS/* and test/CLASS/* or val/CLASS/*, "
                f"{part.name}/ is not there"
            )
        sets.append(torchvision.datasets.ImageFolder(str(part)))
    if sets[0].classes != sets[1].classes:
        raise DataMissing(
            f"folder: train/ and {test.name}/ must have the same classes, got {sets[0].classes} "
            f"and {sets[1].classes}"
        )
    tensors = []
    for images in sets:
        pictures = [np.asarray(image.convert("RGB").resize((32, 32))) for image, _ in images]
        tensors += [torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()]
        tensors += [torch.tensor(images.targets)]
    x, y, test_x, test_y = tensors
    return _images(x, y, test_x, test_y, len(sets[0].classes), flip=True)


SETS: dict[str, Callable[[Path | None], Images]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar("cifar10", 10),
    "cifar100": _cifar("cifar100", 100),
    "folder": _folder,
}


def load(name: str, folder: Path | None = None, limit: int | None = None) -> Images:
    """Reads a data set.

    Args:
        name: one of `SETS`.
        folder: where its files are, if not in the usual place.
        limit: keep so many training images, chosen once by a fixed shuffle.

    Raises:
        ValueError: the name is unknown or the limit not positive.
        DataMissing: its files, or the library that reads them, are not there.
    """
    if name not in SETS:
        raise ValueError(f"data must be one of {', '.join(SETS)}, got {name!r}")
    images = SETS[name](folder)
    if limit is None:
        return images
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    order = torch.randperm(len(images.train_y), generator=torch.Generator().manual_seed(0))[:limit]
    return replace(images, train_x=images.train_x[order], train_y=images.train_y[order])
