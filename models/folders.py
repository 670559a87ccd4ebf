"""Images in folders, train/CLASS/* and val/CLASS/*, read as they are needed: ImageNet's way.

Training as the paper has it: both sides to 256 pixels, a random crop of 224, mirrored or not.
Evaluation on the middle crop, or on ten: four corners and the middle, and their mirror images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.augment import seeded
from models.images import DataMissing

RESIZED, CROP = 256, 224
# Of ImageNet's training images, as torchvision's networks expect them.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _picture(path: str) -> Tensor:
    """uint8 [3, 256, 256]."""
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.v2 import functional

    try:
        with Image.open(path) as image:
            bytes_of = functional.pil_to_tensor(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataMissing(f"{path} is not an image, or not whole: {error}") from error
    return functional.resize(bytes_of, [RESIZED, RESIZED], antialias=True)  # type: ignore[no-any-return]


class _Train(Dataset[Tensor]):
    """Random crops, that follow from (seed, epoch, image)."""

    def __init__(self, paths: list[str], seed: int, epoch: int) -> None:
        self.paths, self.seed, self.epoch = paths, seed, epoch

    def __getitem__(self, index: int) -> Tensor:
        generator = seeded(self.seed, self.epoch, index)
        top, left = torch.randint(RESIZED - CROP + 1, (2,), generator=generator).tolist()
        crop = _picture(self.paths[index])[:, top : top + CROP, left : left + CROP]
        return crop.flip(2) if torch.rand((), generator=generator) < 0.5 else crop


class _Test(Dataset[Tensor]):
    """The middle crop, or with `ten` also the corners and all mirrored: [10, 3, 224, 224]."""

    def __init__(self, paths: list[str], ten: bool) -> None:
        self.paths, self.ten = paths, ten

    def __getitem__(self, index: int) -> Tensor:
        from torchvision.transforms.v2 import functional

        picture = _picture(self.paths[index])
        if not self.ten:
            return functional.center_crop(picture, [CROP, CROP])  # type: ignore[no-any-return]
        return torch.stack(functional.ten_crop(picture, [CROP, CROP]))


def _indices(parts: Iterable[Tensor]) -> list[list[int]]:
    return [part.tolist() for part in parts]


@dataclass(frozen=True)
class Folder:
    """A training and a test set in folders, see `models.data.DataSet`.

    Args:
        train, test: paths and labels of the images.
        names: of the classes.
        workers: processes that read; 0 reads in this one.
    """

    train: list[tuple[str, int]]
    test: list[tuple[str, int]]
    names: tuple[str, ...]
    workers: int = 0

    size = CROP

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.names)

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
        images: Dataset[Tensor],
        samples: list[tuple[str, int]],
        parts: Iterable[Tensor],
        device: str,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        indices = _indices(parts)
        loader: Any = DataLoader(
            images, batch_sampler=indices, num_workers=self.workers,
            pin_memory=device.startswith("cuda"),
        )  # fmt: skip
        mean, deviation = (
            torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, DEVIATION)
        )
        for index, x in zip(indices, loader):
            y = torch.tensor([samples[i][1] for i in index], device=device)
            bytes_of = x.to(device, non_blocking=True)
            yield (bytes_of.float() / 255 - mean) / deviation, y

    def train_batches(
        self, parts: Iterable[Tensor], shift: int, seed: int, epoch: int, device: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `models.data.DataSet`; crops move the images, `shift` does not."""
        images = _Train([path for path, _ in self.train], seed, epoch)
        return self._batches(images, self.train, parts, device)

    def test_batches(
        self, parts: Iterable[Tensor], device: str, crops: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `models.data.DataSet`.

        Raises:
            ValueError: crops is neither 1 nor 10.
        """
        if crops not in (1, 10):
            raise ValueError(f"crops must be 1 or 10, got {crops}")
        images = _Test([path for path, _ in self.test], crops == 10)
        return self._batches(images, self.test, parts, device)


def _samples(folder: Path, classes: int | None) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    from torchvision.datasets import ImageFolder

    found = ImageFolder(str(folder))
    names = tuple(found.classes[:classes])
    return [(path, label) for path, label in found.samples if label < len(names)], names


def read(folder: Path, classes: int | None, limit: int | None, workers: int) -> Folder:
    """Finds the images.

    Args:
        folder: holds train/CLASS/* and val/CLASS/*.
        classes: the first so many of the sorted class folders; all if None.
        limit: keep so many training images, chosen once by a fixed shuffle.
        workers: processes that read.

    Raises:
        FileNotFoundError: a part is not there.
        ValueError: both parts have not the same classes, or fewer than `classes`.
    """
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise FileNotFoundError(
                f"imagenet: {folder} must hold train/CLASS/* and val/CLASS/*, {part}/ is not there"
            )
    (train, names), (test, test_names) = (
        _samples(folder / part, classes) for part in ("train", "val")
    )
    if names != test_names:
        raise ValueError(f"imagenet: train/ and val/ of {folder} must have the same classes")
    if classes is not None and len(names) < classes:
        raise ValueError(f"classes must be at most {len(names)}, as in {folder}, got {classes}")
    if limit is not None:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:limit]
        train = [train[i] for i in order.tolist()]
    return Folder(train, test, names, workers)
