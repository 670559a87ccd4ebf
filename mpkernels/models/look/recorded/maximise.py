"""Inputs that a gate opens for most, made by gradient ascent."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

import mpkernels

from ...data import DataSet, normalise
from .log import Log
from .recorder import as_bytes, gates_of

STARTS, STEPS, RATE, DECAY, JITTER, BLUR_EVERY = 4, 256, 0.05, 1e-4, 2, 8
# What is climbed: the score alone, as in the paper, which may rise with all scores of its path and
# leave the gate as it is; and the score less the mean of the path's other scores, which cannot.
OBJECTIVES = ("score", "difference")


def objective(scores: Tensor, i: int, j: int, kind: str) -> Tensor:
    """What is climbed for gate g_ij, [B], of the scores [B, m, n] of its router."""
    own = scores[:, i, j]
    if kind == "score":
        return own
    return own - (scores[:, i].sum(1) - own) / (scores.shape[2] - 1)


def blurred(x: Tensor) -> Tensor:
    """Images [B, 3, H, W] behind a 3x3 binomial filter."""
    row = torch.tensor([0.25, 0.5, 0.25], device=x.device)
    kernel = torch.outer(row, row).expand(x.shape[1], 1, 3, 3)
    return conv2d(nn.functional.pad(x, (1, 1, 1, 1), "replicate"), kernel, groups=x.shape[1])


def maximise(
    model: nn.Module,
    images: DataSet,
    gates: list[tuple[str, int, int, str]],
    grey: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Climbs from `STARTS` random images for each gate, all of them at once.

    Each step moves the image by up to `JITTER` pixels, and now and then blurs it: else noise of
    single pixels wins. Adam's rate is `RATE`; `DECAY` times the squared norm is taken off.

    Args:
        model: the network in evaluation mode.
        images: whose preparation is that of the network.
        gates: router, input, output and one of `OBJECTIVES` for each gate.
        grey: whether colours are left out, as a network was trained on none.
        seed: of the starts and the moves.

    Returns:
        normalised images [gates, STARTS, 3, S, S], and the gate that each reaches [gates, STARTS].
    """
    seen = images.preparation
    assert seen is not None
    device = next(model.parameters()).device
    zero, one = (
        normalise(seen, torch.full((3, 1, 1), shade, dtype=torch.uint8)).to(device)
        for shade in (0, 255)
    )
    generator = torch.Generator().manual_seed(seed)
    channels = 1 if grey else 3
    start = torch.rand(len(gates) * STARTS, channels, seen.size, seen.size, generator=generator)
    x = blurred(start.to(device)).requires_grad_()  # pixels from 0 to 1
    adam = torch.optim.Adam([x], RATE)

    def recorded(pixels: Tensor, what: str) -> list[Tensor]:
        with mpkernels.record(model, detach=False) as calls:
            model(zero + pixels * (one - zero))
        return [
            getattr(calls[name], what)[at * STARTS : (at + 1) * STARTS]
            for at, (name, *_) in enumerate(gates)
        ]

    for step in range(STEPS):
        moves = torch.randint(-JITTER, JITTER + 1, (2,), generator=generator).tolist()
        scores = recorded(x.roll(moves, (2, 3)), "scores")
        climbed = [objective(s, i, j, kind).sum() for s, (_, i, j, kind) in zip(scores, gates)]
        adam.zero_grad()
        (DECAY * x.square().sum() - torch.stack(climbed).sum()).backward()
        adam.step()
        with torch.no_grad():
            x.copy_((blurred(x) if step % BLUR_EVERY == 0 else x).clamp(0, 1))
    with torch.no_grad():
        reached = [g[:, i, j] for g, (_, i, j, _) in zip(recorded(x, "gates"), gates)]
        made = zero + x * (one - zero)
    shape = (len(gates), STARTS, *made.shape[1:])
    return made.detach().view(shape), torch.stack(reached).detach()


def record_maximised(log: Log, model: nn.Module, images: DataSet) -> None:
    """Adds the made inputs of every gate, for both objectives."""
    pixels = log.of("pictures")["pixels"]
    grey = bool((pixels == pixels[:, :1]).all())
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        of_gates = gates_of(log)
        names = [router["name"] for router in log.routers]
        wanted = [(names[at], i, j, kind) for at, i, j in of_gates for kind in OBJECTIVES]
        made, reached = maximise(model, images, wanted, grey)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
    shape = (len(of_gates), len(OBJECTIVES), STARTS)
    pictures = as_bytes(made.flatten(0, 1).cpu(), images)
    log.add("maximise", {
        "gates": np.array(of_gates, np.int32), "reached": reached.cpu().numpy().reshape(shape),
        "pixels": pictures.reshape(*shape, *pictures.shape[1:]),
    })  # fmt: skip
