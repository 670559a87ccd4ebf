"""What a trained network owes to its gates: its accuracy when others take their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

import mpkernels

from ..data import DataSet
from ..training.gates import Statistics
from .scores import predict

# In the place of a router's own gates: their mean over the data set, those of another image, 1/n,
# and 1 for each path's largest gate.
RULES = ("mean", "shuffled", "uniform", "argmax")
ALL = "all"


@dataclass(frozen=True)
class Contrast:
    """Accuracy with other gates, against that with the network's own.

    Args:
        routers: whose gates were replaced, "all" or the name of one.
        rule: by what, one of RULES.
        accuracy: the share of images that are right then.
        change, low, high: accuracy less that of learned gates, and its interval of 95 %: Clopper's
            and Pearson's of the gains among the images that differ, as many as did.
        p: McNemar's exact test, that the change is chance.
    """

    routers: str
    rule: str
    accuracy: float
    change: float
    low: float
    high: float
    p: float


def contrast(routers: str, rule: str, right: Tensor, learned: Tensor) -> Contrast:
    """Of two lists [N] that say for the same images whether they are right."""
    images = len(right)
    gained, lost = int((right & ~learned).sum()), int((learned & ~right).sum())
    differ, accuracy = gained + lost, float(right.double().mean())
    if not differ:
        return Contrast(routers, rule, accuracy, 0.0, 0.0, 0.0, 1.0)
    test = binomtest(gained, differ)
    low, high = ((2 * q - 1) * differ / images for q in test.proportion_ci(0.95))
    change = (gained - lost) / images
    return Contrast(routers, rule, accuracy, change, low, high, float(test.pvalue))


def ablation(
    model: nn.Module,
    images: DataSet,
    device: str,
    batch_size: int = 512,
    one_by_one: bool = True,
) -> dict[str, Any]:
    """Gates of every router, and accuracies with others in their place.

    Images come in a random order, the same for all rules: a data set may be sorted by class, and
    gates are shuffled within a batch.

    Args:
        model: the network, in evaluation mode.
        images: whose test images are classified.
        device: where the model is.
        batch_size: images at a time.
        one_by_one: whether to replace the gates of single routers too, after those of all.

    Returns:
        images; accuracy with learned gates; routers: name -> deviation and entropy of its gates,
        and their mean; contrasts: of all routers, then of one at a time.

    Raises:
        ValueError: the network has no router.
    """
    order = torch.randperm(images.test_count, generator=torch.Generator().manual_seed(0))

    def right(rules: Mapping[str, Any]) -> Tensor:
        with torch.random.fork_rng(), mpkernels.route(model, rules):
            torch.manual_seed(0)  # of shuffled gates
            probabilities, labels = predict(model, images, device, 1, batch_size, order)
        return probabilities.argmax(1) == labels

    with mpkernels.record(model) as recorded:
        names = list(recorded)
    if not names:
        raise ValueError("the network has no router, whose gates could be replaced")
    of = {name: Statistics() for name in names}
    with mpkernels.record(model, take=lambda name, call: of[name].add(call["gates"])):
        learned = right({})
    contrasts = []
    for routers in (ALL, *names) if one_by_one and len(names) > 1 else (ALL,):
        for rule in RULES:
            replaced = names if routers == ALL else [routers]
            rules = {n: of[n].mean.float() if rule == "mean" else rule for n in replaced}
            contrasts.append(asdict(contrast(routers, rule, right(rules), learned)))
    return {
        "images": len(learned),
        "accuracy": float(learned.double().mean()),
        "routers": {
            name: {"deviation": s.deviation, "entropy": s.entropy, "mean": s.mean.tolist()}
            for name, s in of.items()
        },
        "contrasts": contrasts,
    }


def markdown(result: dict[str, Any]) -> list[str]:
    """Two tables: what the gates are, and what the network is without them."""
    lines = [
        "", "## Gates", "", "| router | deviation over images | entropy, nats |", "|---|---|---|",
    ]  # fmt: skip
    for name, gates in result["routers"].items():
        entropy = "" if gates["entropy"] is None else f"{gates['entropy']:.4f}"
        lines.append(f"| {name} | {gates['deviation']:.4f} | {entropy} |")
    lines += [
        "",
        f"With learned gates {100 * result['accuracy']:.2f} % of {result['images']} images are "
        "right. With others in their place, in points, with an interval of 95 % and McNemar's "
        "exact p:",
        "", "| routers | gates | right, % | change | p |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in result["contrasts"]:
        change, low, high = (100 * row[key] for key in ("change", "low", "high"))
        lines.append(
            f"| {row['routers']} | {row['rule']} | {100 * row['accuracy']:.2f} | "
            f"{change:+.2f} [{low:+.2f}, {high:+.2f}] | {row['p']:.2g} |"
        )
    return lines
