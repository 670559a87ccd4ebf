"""Images in folders as ImageNet has them, train/CLASS/* and val/CLASS/*, read when needed.

Training follows the paper: both sides scaled to 256 pixels, a random crop of 224, mirrored or not.
Evaluation sees the middle crop, or ten: four corners, the middle, and the mirror images of these.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from .images import STATISTICS, DataMissing, normalise, seeded

RESIZED, CROP = 256, 224
Samples = list[tuple[str, int]]


def picture(path: str, size: int) -> Tensor:
    """An image file as uint8 [3, size, size], whatever its sides and colours.

    Raises:
        DataMissing: it is not an image, or not whole.
    """
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.v2 import functional

    try:
        with Image.open(path) as image:
            pixels = functional.pil_to_tensor(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataMissing(f"{path} is not an image, or not whole: {error}") from error
    return functional.resize(pixels, [size, size], antialias=True)  # type: ignore[no-any-return]


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

    def __init__(self, paths: list[str], seed: int, epoch: int) -> None:
        self.paths, self.seed, self.epoch = paths, seed, epoch

    def crop(self, index: int) -> Tensor:
        """224x224 pixels from anywhere in the image, mirrored or not."""
        generator = seeded(self.seed, self.epoch, index)
        top, left = torch.randint(RESIZED - CROP + 1, (2,), generator=generator).tolist()
        part = picture(self.paths[index], RESIZED)[:, top : top + CROP, left : left + CROP]
        return part.flip(2) if torch.rand((), generator=generator) < 0.5 else part


class _Test(Crops):
    """The middle crop; with `ten` the corners and all mirror images too, [10, 3, 224, 224]."""

    def __init__(self, paths: list[str], ten: bool) -> None:
        self.paths, self.ten = paths, ten

    def crop(self, index: int) -> Tensor:
        """One crop, or ten."""
        from torchvision.transforms.v2 import functional

        whole = picture(self.paths[index], RESIZED)
        if not self.ten:
            return functional.center_crop(whole, [CROP, CROP])  # type: ignore[no-any-return]
        return torch.stack(functional.ten_crop(whole, [CROP, CROP]))


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Blocks SIGTERM in this thread, and so in every thread of a process that is forked meanwhile.

    A worker's libraries start threads before any function of ours runs there, and a signal goes to
    any one thread that does not block it.
    """
    if not hasattr(signal, "sigwaitinfo"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _heed_only_the_parent(worker: int) -> None:
    """Makes a worker ignore Ctrl-C, and SIGTERM unless its parent sends it.

    Both signals may reach all processes; the parent saves its state first, then ends the workers.
    If SIGTERM were ignored, the parent could not end the worker and would wait forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # where it was not forked
        threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


@dataclass(frozen=True)
class Folder:
    """A training and a test set in folders, see `models.data.DataSet`.

    Args:
        train, test: paths and labels of the images.
        names: names of the classes.
        workers: number of processes that read; with 0 this one does.
    """

    train: Samples
    test: Samples
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
        images: Crops,
        samples: Samples,
        parts: Iterable[Tensor],
        device: str,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        indices = [part.tolist() for part in parts]
        loader = DataLoader(
            images, batch_sampler=indices, num_workers=self.workers,
            collate_fn=_batch, pin_memory=device.startswith("cuda"),
            worker_init_fn=_heed_only_the_parent,
        )  # fmt: skip
        with _sigterm_blocked():
            batches = iter(loader)
        for index in indices:
            x = next(batches)
            if isinstance(x, DataMissing):
                raise x from None
            y = torch.tensor([samples[i][1] for i in index], device=device)
            yield normalise(self, x.to(device, non_blocking=True)), y

    def train_batches(
        self, parts: Iterable[Tensor], shift: int, seed: int, epoch: int, device: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `models.data.DataSet`. Random crops move the images; `shift` has no effect."""
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


def find(
    folder: Path, test: str, classes: int | None = None
) -> tuple[Samples, Samples, tuple[str, ...]]:
    """Finds the images without reading them.

    Args:
        folder: holds train/CLASS/* and `test`/CLASS/*.
        test: name of the test set's folder.
        classes: how many of the sorted class folders to use; all if None.

    Returns:
        paths and labels of the training and of the test images, and the classes' names.

    Raises:
        DataMissing: a part is missing or has other classes.
        ValueError: there are fewer than `classes` classes.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    parts: list[Samples] = []
    names: tuple[str, ...] | None = None
    for part in (folder / "train", folder / test):
        try:
            every = find_classes(part)[0]
            if classes is not None and len(every) < classes:
                raise ValueError(
                    f"classes must be at most {len(every)}, as in {part}, got {classes}"
                )
            chosen = tuple(every[:classes])
            parts.append(make_dataset(part, {n: i for i, n in enumerate(chosen)}, IMG_EXTENSIONS))
        except FileNotFoundError as error:
            raise DataMissing(
                f"{folder} must hold train/CLASS/* and {test}/CLASS/*: {error}"
            ) from error
        others = set(chosen).symmetric_difference(names or chosen)
        if others:
            raise DataMissing(
                f"train/ and {test}/ of {folder} must have the same classes, but only one has "
                f"{', '.join(sorted(others)[:5])}"
            )
        names = chosen
    return parts[0], parts[1], chosen


def read(folder: Path, classes: int | None, limit: int | None, workers: int) -> Folder:
    """A training set in train/ and a test set in val/.

    Args:
        folder, classes: see `find`.
        limit: how many training images to keep, chosen once by a fixed shuffle.
        workers: number of processes that read.

    Raises:
        DataMissing, ValueError: see `find`.
    """
    train, test, names = find(folder, "val", classes)
    if limit is not None:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:limit]
        train = [train[i] for i in order.tolist()]
    return Folder(train, test, names, workers)
