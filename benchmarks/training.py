"""A training step of a whole network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import models
from benchmarks.correct import is_near
from benchmarks.measure import Step


def build(name: str, routers: str, device: str = "cpu", channels_last: bool = False) -> nn.Module:
    """The network in training mode, always with the same weights."""
    torch.manual_seed(0)
    model = models.create(name, num_classes=10, routers=routers, channels_last=channels_last)
    return model.to(device).train()


def images(batch: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Random images with labels, always the same."""
    torch.manual_seed(1)
    x = torch.randn(batch, 3, 32, 32, device=device)
    return x, torch.randint(10, (batch,), device=device)


def training_step(
    model: nn.Module, run: Callable[..., Any], x: Tensor, y: Tensor, bf16: bool = False
) -> Step:
    """Forward, backward and SGD on one fixed batch; gradients stay allocated, as graphs need."""
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> object:
        optimiser.zero_grad(set_to_none=False)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
            loss = cross_entropy(run(x), y)
        loss.backward()
        optimiser.step()
        return loss

    return step


def _results(model: nn.Module, run: Callable[..., Any], x: Tensor, y: Tensor) -> list[Tensor]:
    """The loss, and all gradients in one tensor."""
    loss = cross_entropy(run(x), y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return [loss.detach(), torch.cat([g.flatten() for g in gradients])]


def is_right(model: nn.Module, run: Callable[..., Any], eager: nn.Module, batch: int) -> bool:
    """Whether loss and gradients are about as near to float64 as those of the eager network.

    Some of its millions of ReLUs stand so near to 0 that rounding decides: hence the slack.
    """
    x, y = images(batch)
    wide = copy.deepcopy(eager).double()
    exact = _results(wide, wide, x.double(), y)
    plain = _results(eager, eager, x, y)
    return is_near(_results(model, run, x, y), exact, plain, slack=2.0**-12)
