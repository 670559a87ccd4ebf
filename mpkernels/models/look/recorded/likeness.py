"""How alike parallel layers are: their weights, and what they say of the same images."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from ...data import DataSet
from .log import Log
from .recorder import parallel_layers

BINS, IMAGES, DRAWN = 80, 500, 100_000


def layers(model: nn.Module) -> list[tuple[str, list[Tensor]]]:
    """The weights of each layer that exists once a path: its kind, and its weights path by path."""
    found = []
    for stage in parallel_layers(model):
        parts = [
            [m for m in path.modules() if isinstance(m, (nn.Conv2d, nn.Linear))] for path in stage
        ]
        for one in zip(*parts):
            kind = "dense" if isinstance(one[0], nn.Linear) else "conv"
            width = "x".join(str(size) for size in one[0].weight.shape[1::-1])
            found.append((f"{kind} {width}", [m.weight.detach().flatten().cpu() for m in one]))
    return found


def distance(weights: list[Tensor]) -> float:
    """The largest Kolmogorov-Smirnov distance between the weights of two paths, from 0 to 1."""
    some = [w[:: max(1, len(w) // DRAWN)].numpy() for w in weights]
    return max(float(ks_2samp(a, b).statistic) for a, b in combinations(some, 2))


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Song et al.'s estimate for Gram matrices [N, N]; 0 on average for unrelated features."""
    n = len(k)
    k, l = (g - torch.diag(g.diagonal()) for g in (k, l))  # noqa: E741
    means = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ l.sum(0)) / (n - 2)
    return ((k * l).sum() + means) / (n * (n - 3))


def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of features [N, F] and [N, G]; 1 for rotations and scales.

    Of at least 4 images; unbiased, so that few images with many features do not seem alike.
    """
    k, l = (f.double() @ f.double().T for f in (x.flatten(1), y.flatten(1)))  # noqa: E741
    scale = (unbiased_hsic(k, k) * unbiased_hsic(l, l)).clamp_min(1e-300).sqrt()
    return float(unbiased_hsic(k, l) / scale)


def alikeness(model: nn.Module, images: DataSet, device: str) -> list[float]:
    """CKA of what the first two paths give behind each part that they have of their own."""
    pairs = [stage[:2] for stage in parallel_layers(model)]
    kept: dict[nn.Module, list[Tensor]] = {module: [] for pair in pairs for module in pair}

    def keep(module: nn.Module, inputs: object, y: Tensor) -> None:
        kept[module].append(y.cpu().clone())

    handles = [module.register_forward_hook(keep) for module in kept]
    count = min(IMAGES, images.test_count)
    order = torch.randperm(images.test_count, generator=torch.Generator().manual_seed(0))[:count]
    try:
        with torch.no_grad():
            for x, _ in images.test_batches(order.split(100), device):
                model(x)
    finally:
        for handle in handles:
            handle.remove()
    return [cka(*(torch.cat(kept[module]) for module in pair)) for pair in pairs]


def record_weights(
    log: Log, models: Iterable[tuple[str, nn.Module]], images: DataSet, device: str
) -> None:
    """Adds, of each network by name, weight histograms, distances, and CKA between paths."""
    arrays: dict[str, Any] = {}
    names: dict[str, list[str]] = {}
    for name, model in models:
        of_layers = layers(model)
        names[name] = [kind for kind, _ in of_layers]
        arrays[f"{name}/distance"] = [distance(weights) for _, weights in of_layers]
        arrays[f"{name}/cka"] = alikeness(model, images, device)
        for at, (_, weights) in enumerate(of_layers):
            low, high = np.quantile(torch.cat(weights).numpy(), (0.0005, 0.9995))
            edges = np.linspace(low, high, BINS + 1)
            arrays[f"{name}/edges/{at}"] = edges
            arrays[f"{name}/counts/{at}"] = [np.histogram(w, edges)[0] for w in weights]
    log.add("weights", arrays, layers=names)
