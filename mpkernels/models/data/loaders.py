"""A user's own datasets, in PyTorch's DataLoaders, as `models.training.fit` takes images."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from .images import Preparation, seeded
from .workers import batches


@contextmanager
def _seeded_generators(seed: int) -> Iterator[None]:
    """Seeds the global generators of torch, Python and NumPy; afterwards they are as before."""
    numpy, python = sys.modules.get("numpy"), random.getstate()
    array = numpy.random.get_state() if numpy else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(array)


class _Seeded(Dataset[Any]):
    """A dataset whose random transforms follow from (seed, epoch, index) alone."""

    def __init__(self, dataset: Any, seed: int, epoch: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __getitem__(self, index: int) -> Any:
        with _seeded_generators(seeded(self.seed, self.epoch, index).initial_seed()):
            return self.dataset[index]


@dataclass(frozen=True)
class Loaders:
    """A training and a test set in DataLoaders, see `models.data.DataSet`.

    Of a loader its dataset, collate_fn, number of workers, worker_init_fn and pin_memory are used.
    Which images make a batch follows from the recipe's seed and batch size, so that a stopped run
    goes on exactly. The global generators of torch, Python and NumPy are seeded for each image; a
    transform with a generator of its own must take its seed from them.

    Args:
        train, test: loaders of datasets with a length, whose batches are pairs of normalised
            images, float [B, C, H, W], and labels, int64 [B]. Transforms are the dataset's: the
            recipe's shifts have no effect.
        names: names of the classes, by label.
        preparation: how a picture becomes what the network sees, if `mpkernels predict` is to label
            pictures; its names are `names`.

    Raises:
        TypeError: a loader is none, or its dataset has no length or no items by index.
        ValueError: a loader has a sampler of its own, or the preparation does not fit the names.
    """

    train: DataLoader[Any]
    test: DataLoader[Any]
    names: Sequence[str]
    preparation: Preparation | None = None

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            loader = getattr(self, name)
            if not isinstance(loader, DataLoader):
                raise TypeError(f"{name} must be a DataLoader, got {type(loader).__name__}")
            dataset = loader.dataset
            if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
                raise TypeError(
                    f"{name} must hold a dataset with a length and items by index, got "
                    f"{type(dataset).__name__}"
                )
            if not isinstance(loader.sampler, (RandomSampler, SequentialSampler)):
                raise ValueError(
                    f"{name} must have no sampler of its own, which would not be used, got "
                    f"{type(loader.sampler).__name__}"
                )
        if self.preparation is not None:
            Preparation.from_dict(self.preparation.as_dict())
            if self.preparation.names != tuple(self.names):
                raise ValueError(
                    f"names must be those of preparation, {self.preparation.names}, "
                    f"got {tuple(self.names)}"
                )

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.names)

    @cached_property
    def size(self) -> int:
        """Height and width of the images."""
        return int(self.test.dataset[0][0].shape[-1])

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train.dataset)  # type: ignore[arg-type]

    @property
    def test_count(self) -> int:
        """Number of test images."""
        return len(self.test.dataset)  # type: ignore[arg-type]

    def _checked(self, batch: Any, count: int) -> tuple[Tensor, Tensor]:
        """The images and labels of a batch of `count` images.

        Raises:
            TypeError: the batch is no pair of float images and int64 labels.
            ValueError: images are missing, or a label has no name.
        """
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            found = type(batch).__name__
            found += f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            raise TypeError(f"collate_fn must return a pair of images and labels, got {found}")
        x, y = batch
        for what, value, kind, dim in (
            ("images", x, torch.float32, "[B, C, H, W]"), ("labels", y, torch.int64, "[B]"),
        ):  # fmt: skip
            if not isinstance(value, Tensor) or value.dtype != kind:
                other = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{what} must be {kind} {dim}, got {other}")
        if x.dim() != 4 or y.dim() != 1 or not len(x) == len(y) == count:
            raise ValueError(
                f"images must be [{count}, C, H, W] and labels [{count}] for a batch of {count}, "
                f"got {[*x.shape]} and {[*y.shape]}"
            )
        low, high = y.min().item(), y.max().item()
        if low < 0 or high >= self.classes:
            raise ValueError(f"labels must be from 0 to {self.classes - 1}, got {low} to {high}")
        return x, y

    def _batches(
        self, loader: DataLoader[Any], dataset: Any, parts: Iterable[Tensor], device: str, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        indices = [part.tolist() for part in parts]
        made = loader.num_workers, loader.collate_fn, loader.pin_memory
        # Closed at once, else what a dataset raised would keep its readers waiting.
        with closing(batches(dataset, indices, *made, seed, loader.worker_init_fn)) as read:
            for index, batch in zip(indices, read):
                x, y = self._checked(batch, len(index))
                yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)

    def train_batches(
        self,
        parts: Iterable[Tensor],
        shift: int,
        seed: int,
        epoch: int,
        device: str,
        fill: str = "mean",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `models.data.DataSet`."""
        images = _Seeded(self.train.dataset, seed, epoch)
        worker_seed = seeded(seed, epoch).initial_seed()
        return self._batches(self.train, images, parts, device, worker_seed)

    def test_batches(
        self, parts: Iterable[Tensor], device: str, crops: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `models.data.DataSet`.

        Raises:
            ValueError: crops is not 1.
        """
        if crops != 1:
            raise ValueError(f"crops must be 1, got {crops}: transforms are the dataset's")
        return self._batches(self.test, self.test.dataset, parts, device, 0)
