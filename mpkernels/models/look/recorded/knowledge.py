"""What gates know of an image: how much of them a context explains, against chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .log import Log

PERMUTATIONS, BINS = 200, 10


def explained(gates: np.ndarray, context: np.ndarray) -> float:
    """R^2: the share of the gates' variance over images that lies between groups of a context.

    Args:
        gates: [N, ...]; their variances are added.
        context: the group of each image, whole numbers [N].

    Returns:
        from 0 to 1; 0 for gates that are constant.
    """
    flat = gates.reshape(len(gates), -1).astype(np.float64)
    flat = flat - flat.mean(0)
    total = float((flat**2).sum())
    _, group = np.unique(context, return_inverse=True)
    counts = np.bincount(group)
    sums = np.stack([np.bincount(group, column) for column in flat.T], 1)
    between = float((sums**2 / counts[:, None]).sum())
    # Rounding alone makes the variance of equal gates.
    return between / total if total > 1e-12 * flat.size else 0.0


def chance(gates: np.ndarray, context: np.ndarray, seed: int = 0) -> np.ndarray:
    """`explained` for contexts dealt out at random, [PERMUTATIONS]."""
    generator = np.random.default_rng(seed)
    return np.array([explained(gates, generator.permutation(context)) for _ in range(PERMUTATIONS)])


@dataclass(frozen=True)
class Knowledge:
    """What the gates of each router know of a context.

    Args:
        context: its name.
        explained: R^2 at each router, in order of depth.
        chance: the 95th percentile of R^2 by chance there.
    """

    context: str
    explained: list[float]
    chance: list[float]


def by_depth(log: Log) -> list[Knowledge]:
    """What gates know of every context in the log, and of the class."""
    route = log.of("route")
    contexts = {key.removeprefix("context/"): value for key, value in route.items()
                if key.startswith("context/")}  # fmt: skip
    found = []
    for name, context in {**contexts, "class": route["labels"]}.items():
        gates = log.each_router("gates")
        by_chance = [float(np.quantile(chance(g, context), 0.95)) for g in gates]
        found.append(Knowledge(name, [explained(g, context) for g in gates], by_chance))
    return found


def rise(low: Knowledge, high: Knowledge) -> float:
    """Section 7's claim as one number: how much the class gains on a low-level context with depth.

    It is (R^2 of `high` - R^2 of `low`) at the last router less the same at the first; from -2 to
    2, above 0 if deeper gates go by higher contexts.
    """
    gap = [b - a for a, b in zip(low.explained, high.explained)]
    return gap[-1] - gap[0]


def information(gates: np.ndarray, labels: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Mutual information of a gate [N] and the class in nats, and how likely chance gives as much.

    The gate is cut into `BINS` bins of equally many images; p is of a permutation test.
    """
    from sklearn.metrics import mutual_info_score

    edges = np.quantile(gates, np.linspace(0, 1, BINS + 1)[1:-1])
    bins = np.searchsorted(edges, gates)
    found = float(mutual_info_score(labels, bins))
    generator = np.random.default_rng(seed)
    others = [mutual_info_score(generator.permutation(labels), bins) for _ in range(PERMUTATIONS)]
    return found, (1 + sum(other >= found for other in others)) / (1 + PERMUTATIONS)
