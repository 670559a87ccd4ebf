"""Whether fused routers are faster than eager ones: ratios of the two, round by round."""

from __future__ import annotations

import statistics
from typing import Any

from torch import nn

from benchmarks.measure import CudaClock, Spread, Step, WallClock, contest, spread
from benchmarks.training import router_step, training_step
from models.data import Images, normalise

KINDS = ("fused", "eager")
PARTS = ("routers", "step")
BATCH = 128  # the paper's

Times = dict[str, list[float]]


def measure(networks: dict[str, nn.Module], images: Images, device: str, rounds: int) -> Times:
    """Microseconds of a training step, and of its routers alone, in each round.

    Args:
        networks: one of each kind; the steps train it.
        images: whose first training images are the batch.
        device: where the networks are.
        rounds: how often every contender has its turn.

    Returns:
        the figures by contender, such as "fused step".
    """
    x = normalise(images, images.train_x[:BATCH].to(device))
    y = images.train_y[:BATCH].to(device)
    steps: dict[str, Step] = {}
    for kind, model in networks.items():
        steps[f"{kind} routers"] = router_step(model, x)
        steps[f"{kind} step"] = training_step(model, model, x, y)
    return contest(steps, rounds, CudaClock() if device == "cuda" else WallClock())


def ratios(times: Times, part: str) -> list[float]:
    """How many times as fast fused is as eager, round by round."""
    return [eager / fused for fused, eager in zip(times[f"fused {part}"], times[f"eager {part}"])]


def verdict(ratio: Spread) -> str:
    """What the spread of the ratios says: "faster" or "slower", or "not apart" if it holds 1."""
    if ratio["low"] <= 1 <= ratio["high"]:
        return "not apart"
    return "faster" if ratio["low"] > 1 else "slower"


def compare(times: Times) -> dict[str, dict[str, Any]]:
    """Of routers and of the step: the ratio's spread over the rounds, and the verdict."""
    spreads = {part: spread(ratios(times, part)) for part in PARTS}
    return {part: {**ratio, "verdict": verdict(ratio)} for part, ratio in spreads.items()}


def in_words(ratio: dict[str, Any]) -> str:
    """The verdict with its figures: median, and 20th and 80th percentile."""
    words = {"not apart": "not apart", "faster": "fused is faster", "slower": "fused is slower"}
    low, median, high = (f"{ratio[name]:.2f}" for name in ("low", "median", "high"))
    return f"{words[ratio['verdict']]}, {median} [{low}, {high}]"


def share(times: Times, kind: str) -> float:
    """The part of a training step that its routers take, of the medians."""
    routers, step = (statistics.median(times[f"{kind} {part}"]) for part in PARTS)
    return routers / step


def milliseconds(values: list[float]) -> str:
    """Median, and 20th and 80th percentile, of microseconds."""
    low, median, high = (f"{1e-3 * spread(values)[of]:.2f}" for of in ("low", "median", "high"))
    return f"{median} [{low}, {high}]"
