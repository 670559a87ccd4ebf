"""What training and evaluation need of a data set, sets held in memory, and augmentation."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

RGB = tuple[float, float, float]

# Mean and deviation of the training pixels scaled to [0, 1], as a network sees the images. They are
# computed for a set without an entry.
STATISTICS: dict[str, tuple[RGB, RGB]] = {
    # `pixel_statistics` of the enlarged or padded images; tests recompute them.
    "digits": ((0.305106,) * 3, (0.323816,) * 3),
    "mnist-5k": ((0.100384,) * 3, (0.275432,) * 3),
    "fashion-mnist": ((0.219000,) * 3, (0.331811,) * 3),
    # The usual figures for the 50,000 training images of each set.
    "cifar10": ((0.491400, 0.482158, 0.446531), (0.247032, 0.243485, 0.261588)),
    "cifar100": ((0.507075, 0.486549, 0.440918), (0.267334, 0.256438, 0.276150)),
    # The figures for ImageNet's training images that torchvision's networks expect.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class DataMissing(OSError):
    """Images or the library that reads them are missing; the message says how to get them."""


def _three(value: Any, above: float) -> bool:
    return (
        isinstance(value, (list, tuple)) and len(value) == 3
        and all(type(v) in (int, float) and above < v < math.inf for v in value)
    )  # fmt: skip


def _different_texts(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
        and 0 < len(value) == len(set(value))
    )  # fmt: skip


@dataclass(frozen=True)
class Preparation:
    """How images become what a network sees; a checkpoint keeps it.

    Args:
        names: classes by label.
        mean, std: mean and deviation of the training pixels scaled to [0, 1], per channel.
        size: height and width of what the network sees, cut from the middle.
        resized: height and width to which both sides are scaled first; `size` if nothing is cut.
    """

    names: tuple[str, ...]
    mean: RGB
    std: RGB
    size: int
    resized: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Any) -> Preparation:
        """The preparation that `as_dict` described.

        Raises:
            ValueError: a key is missing, unknown, or has a value that cannot be.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"preparation must have keys and values, got {reprlib.repr(values)}")
        for key, (wanted, holds) in _WANTED.items():
            if key not in values:
                raise ValueError(f"preparation has no {key}")
            if not holds(values[key]):
                raise ValueError(
                    f"{key} of a preparation must be {wanted}, got {reprlib.repr(values[key])}"
                )
        if unknown := sorted(map(str, values.keys() - _WANTED.keys())):
            raise ValueError(f"preparation has the unknown key {unknown[0]}")
        if values["resized"] < values["size"]:
            raise ValueError(
                f"resized of a preparation must be at least its size {values['size']}, "
                f"got {values['resized']}"
            )
        names, mean, std = (tuple(values[key]) for key in ("names", "mean", "std"))
        return cls(names, mean, std, values["size"], values["resized"])


_COUNT = "a whole number above 0", lambda value: type(value) is int and value > 0
_WANTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "names": ("a list of different texts", _different_texts),
    "mean": ("three numbers", lambda value: _three(value, -math.inf)),
    "std": ("three numbers above 0", lambda value: _three(value, 0)),
    "size": _COUNT,
    "resized": _COUNT,
}


class DataSet(Protocol):
    """What training and evaluation need of a data set."""

    @property
    def preparation(self) -> Preparation | None:
        """How its images become what a network sees; None where only their transforms know."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""

    @property
    def classes(self) -> int:
        """Number of labels."""

    @property
    def size(self) -> int:
        """Height and width of the images in a batch."""

    @property
    def train_count(self) -> int:
        """Number of training images."""

    @property
    def test_count(self) -> int:
        """Number of test images."""

    def train_batches(
        self,
        parts: Iterable[Tensor],
        shift: int,
        seed: int,
        epoch: int,
        device: str,
        fill: str = "mean",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented training images, normalised.

        How an image is augmented depends on (seed, epoch, image) alone, and not on the batch it is
        in, the step at which a run resumes, or the process that reads it.

        Args:
            parts: the indices of each batch.
            shift: largest number of pixels by which images move.
            seed, epoch: seed and epoch of the augmentation.
            device: where the batches go.
            fill: what takes the places that a shifted image leaves, one of `FILLS`.

        Yields:
            images, float32 [B, 3, size, size], and labels, int64 [B].
        """

    def test_batches(
        self, parts: Iterable[Tensor], device: str, crops: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Test images, normalised, like `train_batches` without augmentation.

        With 10 crops (four corners, the middle, and the mirror images of these) a batch is
        [B, 10, 3, size, size].

        Raises:
            ValueError: the data set does not offer this number of crops.
        """


@dataclass(frozen=True)
class Images:
    """A training and a test set, held in memory.

    Args:
        train_x, test_x: images, uint8 [N, 3, 32, 32].
        train_y, test_y: labels, int64 [N], below the number of classes.
        names: names of the classes.
        mean, std: mean and deviation of the training pixels scaled to [0, 1], per channel.
        flip: whether a mirrored image keeps its label.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    names: tuple[str, ...]
    mean: RGB
    std: RGB
    flip: bool

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.names)

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return self.train_x.shape[-1]

    @property
    def preparation(self) -> Preparation:
        """How these images became what a network sees: they are of its size already."""
        return Preparation(self.names, self.mean, self.std, self.size, self.size)

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train_y)

    @property
    def test_count(self) -> int:
        """Number of test images."""
        return len(self.test_y)

    def train_batches(
        self,
        parts: Iterable[Tensor],
        shift: int,
        seed: int,
        epoch: int,
        device: str,
        fill: str = "mean",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `DataSet`."""
        generator = seeded(seed, epoch)
        offsets = torch.randint(0, 2 * shift + 1, (2, self.train_count), generator=generator)
        mirrored = torch.rand(self.train_count, generator=generator) < 0.5 * self.flip
        for index in parts:
            x = self.train_x[index].to(device)
            # Mean 0 is the mean colour only behind the normalisation, black 0 only before it.
            x = x.float() if fill == "black" else normalise(self, x)
            x = augment(x, shift, offsets[:, index].to(device), mirrored[index].to(device), fill)
            yield normalise(self, x) if fill == "black" else x, self.train_y[index].to(device)

    def test_batches(
        self, parts: Iterable[Tensor], device: str, crops: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `DataSet`."""
        if crops != 1:
            raise ValueError(f"crops must be 1: these images are evaluated whole, got {crops}")
        for index in parts:
            yield normalise(self, self.test_x[index].to(device)), self.test_y[index].to(device)


class Normalised(Protocol):
    """A data set with a mean and a deviation of its pixels."""

    @property
    def mean(self) -> RGB:
        """Mean of the training pixels scaled to [0, 1], per channel."""

    @property
    def std(self) -> RGB:
        """Their standard deviation."""


def normalise(images: Normalised, x: Tensor) -> Tensor:
    """Scales bytes [..., 3, H, W] to float32; the training set gets mean 0 and deviation 1."""
    mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (images.mean, images.std))
    return (x.float() / 255 - mean) / std


def pixel_statistics(x: Tensor) -> tuple[RGB, RGB]:
    """Mean and deviation of bytes [N, 3, H, W] scaled to [0, 1], per channel, from exact counts."""
    shades = torch.arange(256, dtype=torch.float64) / 255
    statistics = []
    for channel in range(3):
        share = torch.bincount(x[:, channel].flatten(), minlength=256).double()
        share /= share.sum()
        mean = (share * shades).sum()
        # The bound keeps a set of a single shade from a division by 0.
        deviation = (share * (shades - mean) ** 2).sum().sqrt().clamp_min(1e-3)
        statistics.append((float(mean), float(deviation)))
    (m0, s0), (m1, s1), (m2, s2) = statistics
    return (m0, m1, m2), (s0, s1, s2)


def seeded(*key: int) -> torch.Generator:
    """A random generator that depends on its key alone."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return torch.Generator().manual_seed(seed)


# What takes the places that a shifted image leaves, and how `pad` calls it.
FILLS = {"mean": "constant", "black": "constant", "nearest": "replicate", "reflect": "reflect"}


def augment(x: Tensor, shift: int, offsets: Tensor, mirrored: Tensor, fill: str = "mean") -> Tensor:
    """Moves and mirrors a batch of images, each in its own way.

    Args:
        x: [B, C, H, W].
        shift: offsets reach from 0 to 2 * shift.
        offsets: int64 [2, B], of rows and columns; an offset of `shift` leaves an image in place.
            Pixels from outside the image are 0, or what `fill` says.
        mirrored: bool [B], whether to mirror an image from left to right.
        fill: one of `FILLS`.

    Returns:
        [B, C, H, W].
    """
    batch, _, height, width = x.shape
    rows = torch.arange(height, device=x.device) + offsets[0][:, None]
    cols = torch.arange(width, device=x.device).expand(batch, width)
    cols = torch.where(mirrored[:, None], cols.flip(1), cols) + offsets[1][:, None]
    padded = pad(x, (shift,) * 4, FILLS[fill]).permute(0, 2, 3, 1)
    sample = torch.arange(batch, device=x.device)[:, None, None]
    return padded[sample, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2).contiguous()
