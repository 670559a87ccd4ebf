"""Layers shared by networks of several paths. Paths are a list of tensors, never one stack."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .streams import side_by_side, streams_beside

Paths = list[Tensor]


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution that keeps the size, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def dense(inputs: int, outputs: int, norm: bool = True) -> nn.Sequential:
    """A dense layer, batch norm if `norm`, ReLU."""
    norms = [nn.BatchNorm1d(outputs)] if norm else []
    return nn.Sequential(nn.Linear(inputs, outputs), *norms, nn.ReLU(inplace=True))


@torch.fx.wrap  # torch.fx records one call: the branch needs to know the dimensions
def global_mean(x: Tensor) -> Tensor:
    """Mean over all positions: maps [B, C, H, W] become vectors [B, C], which stay as they are."""
    return x.mean((2, 3)) if x.dim() == 4 else x


class GlobalPool(nn.Module):
    """`global_mean` as a layer.

    Pooling in front of a router gives the same as behind it, and then no map Y is computed: gates
    depend on the means Z_i alone (Eq. 1), and the mean of Y_j = sum_i g_ij X_i is sum_i g_ij Z_i.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The means, [B, C]."""
        return global_mean(x)


class Parallel(nn.ModuleList):
    """A layer of its own for each path."""

    def __init__(self, paths: int, layer: Callable[[], nn.Module]) -> None:
        super().__init__(layer() for _ in range(paths))

    def forward(self, xs: Paths) -> Paths:
        """Sends path i through layer i."""
        if beside := streams_beside(xs):
            return side_by_side(list(self), xs, beside)
        return [layer(x) for layer, x in zip(self, xs)]


class _Network(nn.Module):
    """Converts images to its memory format."""

    channels_last = False

    def _images(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x


class Unrouted(_Network):
    """Paths that never meet before what they say is averaged; one path is a plain network.

    Args:
        paths: how many.
        path: makes one.
        average: one of `AVERAGES`.
    """

    def __init__(self, paths: int, path: Callable[[], nn.Module], average: str = "logits") -> None:
        super().__init__()
        self.paths = Parallel(paths, path)
        self.average = AVERAGES[average]

    def forward(
        self, x: Tensor, return_gates: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Classifies images [B, C, H, W]; the list of gates is empty, as there are no routers."""
        logits = self.average(self.paths([self._images(x)] * len(self.paths)))
        # torch.fx gives a proxy for the flag: it stands for the default.
        return (logits, []) if return_gates is True else logits


class Routed(_Network):
    """Segments of parallel layers, each behind a router; what all paths say is averaged.

    Args:
        stages: pairs of a router and the `Parallel` behind it.
        stem: layers in front of the first router, shared by all paths.
        average: one of `AVERAGES`.
    """

    def __init__(
        self,
        stages: Iterable[tuple[nn.Module, Parallel]],
        stem: nn.Module | None = None,
        average: str = "logits",
    ) -> None:
        super().__init__()
        self.average = AVERAGES[average]
        pairs = list(stages)
        self.stem = nn.Identity() if stem is None else stem
        self.routers = nn.ModuleList(router for router, _ in pairs)
        self.segments = nn.ModuleList(segment for _, segment in pairs)

    def forward(
        self, x: Tensor, return_gates: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Classifies images.

        Args:
            x: [B, C, H, W].
            return_gates: whether to return the gates of each router too, [B, m, n], in order.

        Returns:
            logits [B, num_classes]; or (logits, gates).
        """
        xs, all_gates = [self.stem(self._images(x))], []
        for router, segment in zip(self.routers, self.segments):
            xs, gates = router(xs, return_gates=True)
            all_gates.append(gates)
            xs = segment(xs)
        logits = self.average(xs)
        return (logits, all_gates) if return_gates is True else logits


def mean_logits(xs: Paths) -> Tensor:
    """The mean of the paths' logits."""
    return torch.stack(xs).mean(0)


def log_mean_probabilities(xs: Paths) -> Tensor:
    """log(1/n sum_j softmax(logits_j)): taken as logits these give the mean probabilities.

    Their cross-entropy weights the gradient of each path by its share of the label's probability.
    """
    # Logarithms near 0 are differences of larger ones: bfloat16 has too few digits for them.
    logits = at_least_float32(torch.stack(xs))
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(xs))


@torch.fx.wrap  # torch.fx records one call: the dtype is known only as it runs
def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# What several paths say together: section 6.2 speaks of the average of probabilities.
AVERAGES = {"logits": mean_logits, "probabilities": log_mean_probabilities}
