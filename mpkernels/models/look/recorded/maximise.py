"""Inputs that a gate opens for most, made by gradient ascent."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

import mpkernels

from ...data import DataSet
from ...data.images import seeded
from .log import Log
from .recorder import as_bytes, gates_of, shades

STARTS, STEPS, RATE, DECAY, JITTER, BLUR_EVERY = 4, 256, 0.05, 1e-4, 2, 8
# What is climbed: the score a_ij, as in the paper, which may rise with all scores of its path and
# leave the gate as it is; and the logit of the gate, a_ij - log sum_k exp a_ik over all other
# outputs k, which rises with the gate alone.
OBJECTIVES = ("score", "logit")

Gate = tuple[str, int, int, str]  # router, input, output, one of OBJECTIVES


def objective(scores: Tensor, i: int, j: int, kind: str) -> Tensor:
    """What is climbed for gate g_ij, [B], of the scores [B, m, n] of its router."""
    own = scores[:, i, j]
    if kind == "score":
        return own
    others = [scores[:, i, k] for k in range(scores.shape[2]) if k != j]
    return own - torch.stack(others).logsumexp(0)


def blurred(x: Tensor) -> Tensor:
    """Images [B, C, H, W] behind a 3x3 binomial filter."""
    row = torch.tensor([0.25, 0.5, 0.25], device=x.device)
    kernel = torch.outer(row, row).expand(x.shape[1], 1, 3, 3)
    return conv2d(nn.functional.pad(x, (1, 1, 1, 1), "replicate"), kernel, groups=x.shape[1])


def maximise(
    model: nn.Module,
    images: DataSet,
    gates: list[tuple[int, Gate]],
    grey: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Climbs from `STARTS` random images for each gate, all of them at once.

    Each step moves the image by up to `JITTER` pixels, and now and then blurs it: else noise of
    single pixels wins. Adam's rate is `RATE`; `DECAY` times the squared norm is taken off.

    Args:
        model: the network in evaluation mode.
        images: whose preparation is that of the network.
        gates: pairs of a number, on which the starts depend, and a gate.
        grey: whether colours are left out, as a network was trained on none.
        seed: of the starts and the moves.

    Returns:
        normalised images [gates, STARTS, 3, S, S], and the gate that each reaches [gates, STARTS].
    """
    device = next(model.parameters()).device
    zero, one = shades(images, device)
    shape = (STARTS, 1 if grey else 3, images.size, images.size)
    starts = [torch.rand(shape, generator=seeded(seed, number)) for number, _ in gates]
    x = blurred(torch.cat(starts).to(device)).requires_grad_()  # pixels from 0 to 1
    adam, moves = torch.optim.Adam([x], RATE), seeded(seed)

    def recorded(pixels: Tensor, what: str) -> list[Tensor]:
        with mpkernels.record(model, detach=False) as calls:
            model(zero + pixels * (one - zero))
        return [
            getattr(calls[name], what)[at * STARTS : (at + 1) * STARTS]
            for at, (_, (name, *_)) in enumerate(gates)
        ]

    for step in range(STEPS):
        down, right = torch.randint(-JITTER, JITTER + 1, (2,), generator=moves).tolist()
        scores = recorded(x.roll((down, right), (2, 3)), "scores")
        climbed = [objective(s, i, j, kind).sum() for s, (_, (_, i, j, kind)) in zip(scores, gates)]
        adam.zero_grad()
        (DECAY * x.square().sum() - torch.stack(climbed).sum()).backward()
        adam.step()
        with torch.no_grad():
            x.copy_((blurred(x) if step % BLUR_EVERY == 0 else x).clamp(0, 1))
    with torch.no_grad():
        reached = [g[:, i, j] for g, (_, (_, i, j, _)) in zip(recorded(x, "gates"), gates)]
        made = zero + x * (one - zero)
    return made.unflatten(0, (len(gates), STARTS)), torch.stack(reached)


def record_maximised(log: Log, model: nn.Module, images: DataSet, batch: int) -> None:
    """Adds the made inputs of every gate, for both objectives, about `batch` inputs at a time."""
    pixels = log.of("pictures")["pixels"]
    grey = bool((pixels == pixels[:, :1]).all())
    of_gates = gates_of(log)
    names = [router["name"] for router in log.routers]
    wanted: list[tuple[int, Gate]] = [
        (number, (names[at], i, j, kind))
        for number, (at, i, j) in enumerate(of_gates)
        for kind in OBJECTIVES
    ]
    size = max(1, batch // STARTS)
    frozen = [p for p in model.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        made, reached = [], []
        for part in range(0, len(wanted), size):
            x, gates = maximise(model, images, wanted[part : part + size], grey)
            made.append(as_bytes(x.flatten(0, 1), images))
            reached.append(gates.cpu().numpy())
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    shape = (len(of_gates), len(OBJECTIVES), STARTS)
    bytes_ = np.concatenate(made)
    log.add("maximise", {
        "gates": np.array(of_gates, np.int32), "reached": np.concatenate(reached).reshape(shape),
        "pixels": bytes_.reshape(*shape, *bytes_.shape[1:]),
    })  # fmt: skip
