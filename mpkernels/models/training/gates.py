"""What the gates of a network's routers do, over the images that it sees."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

import mpkernels
from mpkernels import eager

from .parallel import Processes

# Fused ones are of these classes too.
ROUTERS = (eager.CrossConnect, eager.CrossPredictConv2d, eager.CrossPredictLinear)
# An output path is dead that gets less than this part of an even share of the gates.
DEAD = 0.1


def balance(gates: Tensor) -> Tensor:
    """How unevenly outputs are used: the squared coefficient of variation of their shares.

    Of gates [B, m, n] output j has the share u_j, its mean over images and paths; this is
    n sum_j u_j^2 - 1: 0 where all are used alike, n - 1 where one is used alone. One image may
    still go one way (Shazeer et al., arXiv 1701.06538, section 4).
    """
    shares = gates.mean((0, 1))
    return len(shares) * shares.square().sum() - 1


def entropy(gates: Tensor) -> Tensor:
    """The entropy -sum_j g_ij log g_ij of gates [B, m, n] in nats; the mean of images and paths."""
    # A gate may be 0 exactly; so its gradient is finite.
    logarithms = gates.clamp_min(torch.finfo(gates.dtype).tiny).log()
    return -(gates * logarithms).sum(2).mean()


class Statistics:
    """Of the gates that one router used: sums over images, in float64 where the gates are."""

    def __init__(self) -> None:
        self.images = 0
        self.sums: Tensor | None = None  # [m, n, 3]: of g, g^2 and -g log g

    def add(self, gates: Tensor) -> None:
        """Takes in the gates [B, m, n] of a call."""
        g = gates.detach().double()
        sums = torch.stack([g, g * g, -torch.special.xlogy(g, g)], -1).sum(0)
        self.sums = sums if self.sums is None else self.sums + sums
        self.images += len(g)

    def gather(self, processes: Processes) -> None:
        """Takes in the images of all processes; all of them must call it."""
        if self.sums is not None:
            images, *sums = processes.sums(self.images, *self.sums.flatten().tolist())
            self.images = int(images)
            self.sums = torch.tensor(sums, dtype=torch.float64).view(self.sums.shape)

    def means(self) -> Tensor:
        """[m, n, 3]; zeros unless there were images."""
        return torch.zeros(1, 1, 3) if self.sums is None else self.sums / self.images

    @property
    def mean(self) -> Tensor:
        """Of each gate over the images, [m, n]."""
        return self.means()[..., 0]

    @property
    def deviation(self) -> float:
        """The standard deviation of a gate over the images; the mean of all gates."""
        mean, square, _ = self.means().unbind(-1)
        return float((square - mean**2).clamp_min(0).sqrt().mean())

    @property
    def entropy(self) -> float | None:
        """Of a path's gates over the outputs, in nats; the mean of paths and images.

        None where gates are negative, as weights of a stitch may be.
        """
        nats = float(self.means()[..., 2].sum(1).mean())
        return None if math.isnan(nats) else nats

    @property
    def usage(self) -> list[float]:
        """The share of all gates that each output gets; the even share is 1/n."""
        return self.mean.mean(0).tolist()

    def dead(self) -> list[int]:
        """The outputs that are hardly used."""
        return [j for j, share in enumerate(self.usage) if share < DEAD / len(self.usage)]


def gives_gates(model: nn.Module) -> bool:
    """Whether it has gates that depend on the image, and returns (logits, gates) where asked to."""
    asked = "return_gates" in inspect.signature(model.forward).parameters
    return (
        asked
        and not hasattr(model, "loss")
        and any(isinstance(m, ROUTERS) for m in model.modules())
    )


@contextmanager
def watch(model: nn.Module) -> Iterator[dict[str, Statistics]]:
    """Statistics of the gates that the routers of `model` use until the context is left, by name.

    The weights of stitches are the same for all images, and are left out.
    """
    of = {name: Statistics() for name, m in model.named_modules() if isinstance(m, ROUTERS)}

    def take(name: str, call: dict[str, Tensor]) -> None:
        if name in of:
            of[name].add(call["gates"])

    with mpkernels.record(model, take=take):
        yield of


def figures(watched: dict[str, Statistics]) -> dict[str, float]:
    """All statistics as metrics of an epoch."""
    found: dict[str, float] = {}
    for name, of in watched.items():
        found[f"gates/{name}/deviation"] = of.deviation
        if of.entropy is not None:
            found[f"gates/{name}/entropy"] = of.entropy
        found |= {f"gates/{name}/usage_{j}": share for j, share in enumerate(of.usage)}
        found[f"gates/{name}/dead_paths"] = len(of.dead())
    return found


def warn_of_deaths(metrics: list[dict[str, float]]) -> None:
    """Says which routers have more dead paths in the last epoch than in the one before."""
    *before, last = metrics
    for key, count in last.items():
        if key.endswith("/dead_paths") and count > (before[-1].get(key, 0) if before else 0):
            name = key.removeprefix("gates/").removesuffix("/dead_paths")
            tqdm.write(
                f"epoch {last['epoch']:.0f}: {count:.0f} of the paths behind {name} get less than "
                f"{100 * DEAD:.0f} % of an even share of its gates",
                file=sys.stderr,
            )
