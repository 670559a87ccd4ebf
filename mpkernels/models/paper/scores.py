"""Probabilities on the test set, and what they say: errors, classes, calibration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..data import DataSet
from ..training.step import logits_of

BINS = 15


def probabilities_of(output: Any) -> Tensor:
    """The softmax of what a network returns, see `logits_of`."""
    return logits_of(output).float().softmax(-1)


def predict(
    model: nn.Module,
    images: DataSet,
    device: str,
    crops: int,
    batch_size: int = 512,
    order: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Probabilities [N, classes], averaged over crops, and labels [N]; both on the CPU.

    The test images come as they are, or in this order [N].

    Raises:
        FloatingPointError: the network returns numbers that are not finite.
    """
    numbers = torch.arange(images.test_count) if order is None else order
    parts = numbers.split(max(1, batch_size // crops))
    batches, labels = [], []
    with torch.no_grad():
        for x, y in images.test_batches(parts, device, crops):
            probabilities = probabilities_of(model(x.flatten(0, 1) if crops > 1 else x))
            if crops > 1:
                probabilities = probabilities.unflatten(0, (-1, crops)).mean(1)
            batches.append(probabilities.cpu())
            labels.append(y.cpu())
    whole = torch.cat(batches)
    broken = int((~whole.isfinite()).any(1).sum())
    if broken:
        raise FloatingPointError(
            f"the network's output is not finite for {broken} of {len(whole)} test images"
        )
    return whole, torch.cat(labels)


def top(probabilities: Tensor, labels: Tensor, count: int) -> float:
    """The share of images whose label is among the `count` most probable classes.

    Args:
        probabilities: [N, classes].
        labels: [N].
        count: 1 gives the accuracy.
    """
    best = probabilities.topk(min(count, probabilities.shape[1]), 1).indices
    return float((best == labels[:, None]).any(1).double().mean())


def confusion(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Number of images by label (rows) and predicted class (columns), int64 [classes, classes]."""
    classes = probabilities.shape[1]
    pairs = labels * classes + probabilities.argmax(1)
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error: how far confidence and accuracy are apart.

    The probability of the predicted class sorts images into bins of equal width. The error is the
    absolute difference between mean confidence and accuracy, averaged over all images' bins.
    """
    confidence, predicted = probabilities.double().max(1)
    right = (predicted == labels).double()
    of_bin = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add(0, of_bin, right - confidence)
    return float(gaps.abs().sum() / len(labels))


def loss(probabilities: Tensor, labels: Tensor) -> float:
    """Mean negative logarithm of the label's probability."""
    of_labels = probabilities.double().gather(1, labels[:, None]).clamp_min(1e-300)
    return float(-of_labels.log().mean())
