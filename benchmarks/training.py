"""A training step, or a forward pass, of a whole network, and its routers alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import models
from benchmarks.measure import Step
from mpkernels.nearness import is_near


def build(
    name: str,
    routers: str,
    device: str = "cpu",
    channels_last: bool = False,
    classes: int = 10,
    seed: int = 0,
) -> nn.Module:
    """The network in training mode; its weights follow from the seed."""
    torch.manual_seed(seed)
    model = models.create(name, num_classes=classes, routers=routers, channels_last=channels_last)
    return model.to(device).train()


def images(batch: int, device: str = "cpu", size: int = 32) -> tuple[Tensor, Tensor]:
    """Random images with labels, always the same."""
    torch.manual_seed(1)
    x = torch.randn(batch, 3, size, size, device=device)
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


def forward_pass(run: Callable[..., Any], x: Tensor) -> Step:
    """Classifies one fixed batch; the network is in evaluation mode."""

    def step() -> object:
        with torch.no_grad():
            return run(x)

    return step


def router_step(model: nn.Module, x: Tensor, backward: bool = True) -> Step:
    """All routers of a network on the maps that they meet in it: forward, and `backward`."""
    met: list[tuple[nn.Module, list[Tensor]]] = []

    def note(router: nn.Module, inputs: tuple[list[Tensor], ...]) -> None:
        met.append((router, [t.detach().requires_grad_(t.requires_grad) for t in inputs[0]]))

    routers = list(model.routers)  # type: ignore[arg-type]
    hooks = [router.register_forward_pre_hook(note) for router in routers]
    with torch.set_grad_enabled(backward):
        model(x)
    for hook in hooks:
        hook.remove()

    def forward() -> None:
        with torch.no_grad():
            for router, xs in met:
                router(xs)

    if not backward:
        return forward
    grads = [[torch.randn_like(y) for y in router(xs)] for router, xs in met]

    def step() -> None:
        for (router, xs), outer in zip(met, grads):
            leaves = [t for t in xs if t.requires_grad] + list(router.parameters())
            torch.autograd.grad(router(xs), leaves, outer)

    return step


def _results(model: nn.Module, run: Callable[..., Any], x: Tensor, y: Tensor) -> list[Tensor]:
    """The loss, and all gradients in one tensor."""
    loss = cross_entropy(run(x), y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return [loss.detach(), torch.cat([g.flatten() for g in gradients])]


def is_right(
    model: nn.Module, run: Callable[..., Any], eager: nn.Module, x: Tensor, y: Tensor
) -> bool:
    """Whether the results are about as near to float64 as those of the eager network.

    Loss and gradients in training mode, logits in evaluation mode. Some of the millions of ReLUs
    stand so near to 0 that rounding decides: hence the slack.
    """
    wide = copy.deepcopy(eager).double()

    def results(model: nn.Module, run: Callable[..., Any], x: Tensor) -> list[Tensor]:
        if model.training:
            return _results(model, run, x, y)
        with torch.no_grad():
            return [run(x)]

    exact, plain = results(wide, wide, x.double()), results(eager, eager, x)
    return is_near(results(model, run, x), exact, plain, slack=2.0**-12)
