"""What training and evaluation need of a data set, and data sets that are whole in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.augment import augment, seeded


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

    def test_batches(
        self, parts: Iterable[Tensor], device: str, crops: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Test images, normalised: as `train_batches` without chance.

        With 10 crops, four corners, the middle and their mirrors, images are
        [B, 10, 3, size, size].

        Raises:
            ValueError: the data set has no such crops.
        """


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

    def test_batches(
        self, parts: Iterable[Tensor], device: str, crops: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `DataSet`."""
        if crops != 1:
            raise ValueError(f"crops must be 1: these images are evaluated whole, got {crops}")
        for index in parts:
            yield normalise(self, self.test_x[index].to(device)), self.test_y[index].to(device)


def normalise(images: Images, x: Tensor) -> Tensor:
    """Bytes [B, 3, H, W] to float32 with the training set's mean 0 and deviation 1."""
    mean, std = (
        torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (images.mean, images.std)
    )
    return (x.float() / 255 - mean) / std
