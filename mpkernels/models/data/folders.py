"""Images in folders as ImageNet has them, train/CLASS/* and val/CLASS/*, read when needed.

Training follows the paper: both sides scaled to 256 pixels, a random crop of 224, mirrored or not.
Evaluation sees the middle crop, or ten: four corners, the middle, and the mirror images of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from .decoding import middle, picture
from .finding import Samples, find
from .images import STATISTICS, DataMissing, Preparation, normalise, seeded
from .workers import batches

RESIZED, CROP = 256, 224
Read = Tensor | DataMissing


class Crops(Dataset[Read]):
    """Crops by index of an image; for an image that cannot be read, the reason.

    An exception raised by a worker reaches the parent as the text of its traceback. One that is
    returned arrives as it is.
    """

    def crop(self, index: int) -> Tensor:
        """Reads one image.

        Raises:
            DataMissing: it is not an image, or not whole.
        """
        raise NotImplementedError

    def __getitem__(self, index: int) -> Read:
        try:
            return self.crop(index)
        except DataMissing as error:
            return error


def _batch(crops: list[Read]) -> Read:
    missing = [crop for crop in crops if isinstance(crop, DataMissing)]
    return missing[0] if missing else default_collate(crops)  # type: ignore[no-any-return]


class _Train(Crops):
    """Random crops that depend on (seed, epoch, image) alone."""

    def __init__(self, images: Folder, seed: int, epoch: int) -> None:
        self.paths, self.preparation = [path for path, _ in images.train], images.preparation
        self.seed, self.epoch = seed, epoch

    def crop(self, index: int) -> Tensor:
        """A part from anywhere in the image, mirrored or not."""
        generator = seeded(self.seed, self.epoch, index)
        size, resized = self.preparation.size, self.preparation.resized
        top, left = torch.randint(resized - size + 1, (2,), generator=generator).tolist()
        part = picture(self.paths[index], resized)[:, top : top + size, left : left + size]
        return part.flip(2) if torch.rand((), generator=generator) < 0.5 else part


class _Test(Crops):
    """The middle crop; with `ten` the corners and all mirror images too, [10, 3, size, size]."""

    def __init__(self, images: Folder, ten: bool) -> None:
        self.paths, self.preparation = [path for path, _ in images.test], images.preparation
        self.ten = ten

    def crop(self, index: int) -> Tensor:
        """One crop, or ten."""
        from torchvision.transforms.v2 import functional

        if not self.ten:
            return middle(self.paths[index], self.preparation)
        whole = picture(self.paths[index], self.preparation.resized)
        return torch.stack(functional.ten_crop(whole, [self.preparation.size] * 2))


@dataclass(frozen=True)
class Folder:
    """A training and a test set in folders, see `models.data.DataSet`.

    Args:
        train, test: paths and labels of the images.
        preparation: how they become what a network sees.
        workers: number of processes that read; with 0 this one does.
    """

    train: Samples
    test: Samples
    preparation: Preparation
    workers: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.preparation.names

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.names)

    @property
    def size(self) -> int:
        """Height and width of what a network sees."""
        return self.preparation.size

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train)

    @property
    def test_count(self) -> int:
        """Number of test images."""
        return len(self.test)

    def _batches(
        self,
        images: Crops,
        samples: Samples,
        parts: Iterable[Tensor],
        device: str,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        indices = [part.tolist() for part in parts]
        read = batches(images, indices, self.workers, _batch, device.startswith("cuda"))
        for index, x in zip(indices, read):
            if isinstance(x, DataMissing):
                # The exception keeps this frame, and the frame the exception: left to the garbage
                # collector, the readers would be told to end only after 5 seconds of waiting.
                read.close()
                raise x from None
            y = torch.tensor([samples[i][1] for i in index], device=device)
            yield normalise(self.preparation, x.to(device, non_blocking=True)), y

    def train_batches(
        self,
        parts: Iterable[Tensor],
        shift: int,
        seed: int,
        epoch: int,
        device: str,
        fill: str = "mean",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `models.data.DataSet`. Random crops move images: shift and fill do not count."""
        return self._batches(_Train(self, seed, epoch), self.train, parts, device)

    def test_batches(
        self, parts: Iterable[Tensor], device: str, crops: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `models.data.DataSet`.

        Raises:
            ValueError: crops is neither 1 nor 10, or images are seen whole.
        """
        if crops not in (1, 10):
            raise ValueError(f"crops must be 1 or 10, got {crops}")
        if crops == 10 and self.size == self.preparation.resized:
            raise ValueError("crops must be 1: these images are evaluated whole, got 10")
        return self._batches(_Test(self, crops == 10), self.test, parts, device)


def read(
    folder: Path,
    part: str | None = None,
    classes: int | None = None,
    limit: int | None = None,
    workers: int = 0,
    preparation: Preparation | None = None,
) -> Folder:
    """The images of a folder, for training and evaluation; with a preparation for evaluation alone.

    Args:
        folder, part, classes: see `finding.find`.
        limit: how many training images to keep, chosen once by a fixed shuffle.
        workers: number of processes that read.
        preparation: how the images are prepared; by default as ImageNet's are.

    Raises:
        DataMissing, ValueError: see `finding.find`.
    """
    known = preparation.names if preparation else None
    train, held, names = find(folder, part, classes, known)
    if limit is not None:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:limit]
        train = [train[i] for i in order.tolist()]
    usual = Preparation(names, *STATISTICS["imagenet"], CROP, RESIZED)
    return Folder(train, held, preparation or usual, workers)
