"""What the gates of the trained network differ by, and what they are worth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import mpkernels
from models.data import Images
from models.paper.scores import predict

# A gate hardly depends on the image if it strays over the images by less than this: then less than
# a twentieth of its path goes another way.
HARDLY = 0.05
LEVEL = 0.05


def gates_of(model: nn.Module, images: Images, device: str) -> list[Tensor]:
    """Of each router the gates [N, m, n] of all test images, on the CPU."""
    with mpkernels.record(model) as recorded:
        predict(model, images, device, 1)
    return [router.gates.cpu() for router in recorded.values()]


def by_class(gates: Tensor, labels: Tensor) -> Tensor:
    """Mean gates of each class that is there less those of all images, [classes, m, n]."""
    classes = labels.unique()
    return torch.stack([gates[labels == c].mean(0) for c in classes]) - gates.mean(0)


def widest(gates: list[Tensor]) -> tuple[int, int]:
    """The router and the input path whose gate to output 1 strays most over the images."""
    strays = [(of.std(0)[:, 0], at) for at, of in enumerate(gates)]
    _, router, path = max(
        (float(stray), at, i) for each, at in strays for i, stray in enumerate(each)
    )
    return router, path


def dependence(deviations: list[float]) -> str:
    """Which routers' gates depend on the image, in words."""
    some = [str(at + 1) for at, deviation in enumerate(deviations) if deviation >= HARDLY]
    if not some:
        return "hardly depend on the image"
    if len(some) == len(deviations):
        return "depend on the image"
    routers = f"router {some[0]}" if len(some) == 1 else f"routers {', '.join(some)}"
    return f"hardly depend on the image, but for {routers}"


def contrast(ablation: dict[str, Any], rule: str) -> dict[str, Any]:
    """The row of `models.paper.ablation` for all routers at once."""
    rows = ablation["contrasts"]
    (row,) = (r for r in rows if (r["routers"], r["rule"]) == ("all", rule))
    return dict(row)


def chance(row: dict[str, Any]) -> str:
    """The p of a row in words."""
    return "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.2g}"


def worth(ablation: dict[str, Any]) -> str:
    """What changes if every gate is the same for all images, in words."""
    row = contrast(ablation, "mean")
    change = "not apart" if row["p"] >= LEVEL else f"{100 * row['change']:+.2f} points"
    return f"every gate at its mean: {change}, {chance(row)}"


def deviations(ablation: dict[str, Any]) -> list[float]:
    """Of each router the deviation of a gate over the images, the mean of its gates."""
    return [router["deviation"] for router in ablation["routers"].values()]


def lines(ablation: dict[str, Any]) -> list[str]:
    """Both in words and figures, for the end of the demo."""
    strays = deviations(ablation)
    listed = ", ".join(f"{stray:.3f}" for stray in strays)
    learned, mean = ablation["accuracy"], contrast(ablation, "mean")["accuracy"]
    return [
        f"{dependence(strays)} (deviations over images, router by router: {listed})",
        f"{worth(ablation)} ({mean:.2%}, with learned gates {learned:.2%})",
    ]
