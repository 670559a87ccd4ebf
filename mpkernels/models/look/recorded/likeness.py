"""How alike parallel layers are: their weights, and what they say of the same images."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from ...data import DataSet
from ...networks.layers import Parallel, Routed, Unrouted
from .log import Log

BINS, IMAGES, DRAWN, PLACES = 80, 500, 100_000, 8

Layer = tuple[str, list[nn.Conv2d | nn.Linear]]  # its kind, and the layer of each path
Named = tuple[str, nn.Module, list[Layer]]  # a network's name, it, and its parallel layers


def layers(model: nn.Module) -> list[Layer]:
    """Each convolution and dense layer that exists once a path."""
    stages: list[list[nn.Module]] = []
    if isinstance(model, Unrouted):
        stages = [list(model.paths)]
    elif isinstance(model, Routed):
        stages = [list(stage) for stage in model.segments if isinstance(stage, Parallel)]
    found = []
    for stage in stages:
        parts = [
            [m for m in path.modules() if isinstance(m, (nn.Conv2d, nn.Linear))] for path in stage
        ]
        for one in zip(*parts):
            kind = "dense" if isinstance(one[0], nn.Linear) else "conv"
            width = "x".join(str(size) for size in one[0].weight.shape[1::-1])
            found.append((f"{kind} {width}", list(one)))
    return found


def beside(routed: nn.Module, other: nn.Module) -> list[Layer]:
    """The layers of a network without routers that a routed one has too: its last ones.

    Raises:
        ValueError: it has routers or one path, or other layers.
    """
    if not isinstance(other, Unrouted) or len(other.paths) < 2:
        raise ValueError(
            "beside: paths that never meet are wanted (--option kind=None), got others"
        )
    wanted, found = layers(routed), layers(other)
    found = found[max(0, len(found) - len(wanted)) :]
    kinds, own = ([kind for kind, _ in some] for some in (wanted, found))
    if kinds != own:
        raise ValueError(
            f"beside: layers must be {', '.join(kinds)} as in run, got {', '.join(own)}"
        )
    return found


def distance(weights: list[Tensor]) -> float:
    """The largest Kolmogorov-Smirnov distance between the weights of two paths, from 0 to 1."""
    some = [w[:: max(1, len(w) // DRAWN)].numpy() for w in weights]
    return max(float(ks_2samp(a, b).statistic) for a, b in combinations(some, 2))


def unbiased_hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741
    """Song et al.'s estimate for Gram matrices [N, N]; 0 on average for unrelated features."""
    n = len(k)
    k, l = (g - torch.diag(g.diagonal()) for g in (k, l))  # noqa: E741
    means = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ l.sum(0)) / (n - 2)
    return float(((k * l).sum() + means) / (n * (n - 3)))


def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of features [N, ...] and [N, ...].

    It is 1 where they differ by a rotation and a scale alone; and unbiased, so that few images with
    many features do not seem alike. NaN for features that are the same for all images, and for
    fewer than 4 images.
    """
    if len(x) < 4:
        return math.nan
    centred = [f.flatten(1).double() - f.flatten(1).double().mean(0) for f in (x, y)]
    grams = [f @ f.T for f in centred]
    own = [unbiased_hsic(g, g) for g in grams]
    # Rounding alone makes the variance of constant features.
    sizes = [float(f.flatten(1).double().square().mean()) * f[0].numel() for f in (x, y)]
    if any(value <= 1e-20 * size**2 for value, size in zip(own, sizes)):
        return math.nan
    return unbiased_hsic(*grams) / math.sqrt(own[0] * own[1])


def alikeness(
    model: nn.Module, of_layers: list[Layer], images: DataSet, device: str, batch: int
) -> list[float]:
    """CKA of what the first two paths say of some test images, layer by layer.

    Maps are averaged to at most `PLACES` by `PLACES` places.
    """
    kept: dict[nn.Module, list[Tensor]] = {m: [] for _, paths in of_layers for m in paths[:2]}

    def keep(module: nn.Module, inputs: object, y: Tensor) -> None:
        if y.dim() == 4 and y.shape[-1] > PLACES:
            y = nn.functional.adaptive_avg_pool2d(y, PLACES)
        kept[module].append(y.cpu().clone())

    handles = [module.register_forward_hook(keep) for module in kept]
    count = min(IMAGES, images.test_count)
    order = torch.randperm(images.test_count, generator=torch.Generator().manual_seed(0))[:count]
    try:
        with torch.no_grad():
            for x, _ in images.test_batches(order.split(batch), device):
                model(x)
    finally:
        for handle in handles:
            handle.remove()
    return [cka(*(torch.cat(kept[m]) for m in paths[:2])) for _, paths in of_layers]


def record_weights(
    log: Log,
    networks: list[Named],
    images: DataSet,
    device: str,
    batch: int,
) -> None:
    """Adds weight histograms, distances and CKA between paths: of networks by name."""
    arrays: dict[str, Any] = {}
    names: dict[str, list[str]] = {}
    for name, model, of_layers in networks:
        names[name] = [kind for kind, _ in of_layers]
        weights_of = [[m.weight.detach().flatten().cpu() for m in paths] for _, paths in of_layers]
        arrays[f"{name}/distance"] = [distance(weights) for weights in weights_of]
        arrays[f"{name}/cka"] = alikeness(model, of_layers, images, device, batch)
        for at, weights in enumerate(weights_of):
            low, high = np.quantile(torch.cat(weights).numpy(), (0.0005, 0.9995))
            edges = np.linspace(low, high, BINS + 1)
            arrays[f"{name}/edges/{at}"] = edges
            arrays[f"{name}/counts/{at}"] = [np.histogram(w, edges)[0] for w in weights]
    log.add("weights", arrays, layers=names)
