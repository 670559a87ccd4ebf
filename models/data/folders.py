"""Images in folders, train/CLASS/* and val/CLASS/*, read as they are needed: ImageNet's way.

Training as the paper has it: both sides to 256 pixels, a random crop of 224, mirrored or not.
Evaluation on the middle crop, or on ten: four corners and the middle, and their mirror images.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augment import seeded
from .images import STATISTICS, DataMissing, normalise

RESIZED, CROP = 256, 224


def picture(path: str, size: int) -> Tensor:
    """An image file as uint8 [3, size, size], whatever its sides and colours.

    Raises:
        DataMissing: it is not an image, or not whole.
    """
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.v2 import functional

    try:
        with Image.open(path) as image:
            bytes_of = functional.pil_to_tensor(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataMissing(f"{path} is not an image, or not whole: {error}") from error
    return functional.resize(bytes_of, [size, size], antialias=True)  # type: ignore[no-any-return]


class _Train(Dataset[Tensor]):
    """Random crops, that follow from (seed, epoch, image)."""

    def __init__(self, paths: list[str], seed: int, epoch: int) -> None:
        self.paths, self.seed, self.epoch = paths, seed, epoch

    def __getitem__(self, index: int) -> Tensor:
        generator = seeded(self.seed, self.epoch, index)
        top, left = torch.randint(RESIZED - CROP + 1, (2,), generator=generator).tolist()
        crop = picture(self.paths[index], RESIZED)[:, top : top + CROP, left : left + CROP]
        return crop.flip(2) if torch.rand((), generator=generator) < 0.5 else crop


class _Test(Dataset[Tensor]):
    """The middle crop, or with `ten` also the corners and all mirrored: [10, 3, 224, 224]."""

    def __init__(self, paths: list[str], ten: bool) -> None:
        self.paths, self.ten = paths, ten

    def __getitem__(self, index: int) -> Tensor:
        from torchvision.transforms.v2 import functional

        whole = picture(self.paths[index], RESIZED)
        if not self.ten:
            return functional.center_crop(whole, [CROP, CROP])  # type: ignore[no-any-return]
        return torch.stack(functional.ten_crop(whole, [CROP, CROP]))


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _heed_only_the_parent(worker: int) -> None:
    """In a process that reads: Ctrl-C and SIGTERM may reach all; the parent saves, then ends it.

    Ignored altogether, the parent's own SIGTERM would not end it, and the parent wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


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
    mean, std = STATISTICS["imagenet"]

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
        indices = [part.tolist() for part in parts]
        loader = iter(DataLoader(
            images, batch_sampler=indices, num_workers=self.workers,
            pin_memory=device.startswith("cuda"), worker_init_fn=_heed_only_the_parent,
        ))  # fmt: skip
        for index in indices:
            try:
                x = next(loader)
            except DataMissing as error:
                # One that comes from a worker has its traceback as text; what it says is last.
                said = str(error).rstrip().splitlines()[-1]
                raise DataMissing(said.removeprefix("models.images.DataMissing: ")) from None
            y = torch.tensor([samples[i][1] for i in index], device=device)
            yield normalise(self, x.to(device, non_blocking=True)), y

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


Samples = list[tuple[str, int]]


def find(
    folder: Path, test: str, classes: int | None = None
) -> tuple[Samples, Samples, tuple[str, ...]]:
    """Finds the images, without reading them.

    Args:
        folder: holds train/CLASS/* and `test`/CLASS/*.
        test: the test set's folder.
        classes: the first so many of the sorted class folders; all if None.

    Returns:
        paths and labels of the training and of the test images, and the classes' names.

    Raises:
        DataMissing: a part is not there, or has other classes.
        ValueError: there are fewer than `classes`.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    found: list[Samples] = []
    names: tuple[str, ...] | None = None
    for part in (folder / "train", folder / test):
        try:
            of_part = find_classes(part)[0]
            if classes is not None and len(of_part) < classes:
                raise ValueError(
                    f"classes must be at most {len(of_part)}, as in {part}, got {classes}"
                )
            chosen = tuple(of_part[:classes])
            found.append(make_dataset(part, {n: i for i, n in enumerate(chosen)}, IMG_EXTENSIONS))
        except FileNotFoundError as error:
            raise DataMissing(
                f"{folder} must hold train/CLASS/* and {test}/CLASS/*: {error}"
            ) from error
        apart = set(chosen).symmetric_difference(names or chosen)
        if apart:
            raise DataMissing(
                f"train/ and {test}/ of {folder} must have the same classes, but only one has "
                f"{', '.join(sorted(apart)[:5])}"
            )
        names = chosen
    return found[0], found[1], chosen


def read(folder: Path, classes: int | None, limit: int | None, workers: int) -> Folder:
    """A training set in train/ and a test set in val/.

    Args:
        folder, classes: see `find`.
        limit: keep so many training images, chosen once by a fixed shuffle.
        workers: processes that read.

    Raises:
        DataMissing, ValueError: see `find`.
    """
    train, test, names = find(folder, "val", classes)
    if limit is not None:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:limit]
        train = [train[i] for i in order.tolist()]
    return Folder(train, test, names, workers)
