"""Forces the gates of a model's routers: to see what routing by the image is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from mpkernels.eager.router import Router
from mpkernels.record import routers_of

Own = Callable[[], Tensor]  # computes the router's own gates
Named = Literal["learned", "mean", "uniform", "shuffled", "argmax"]
Rule = Named | Tensor | Callable[[Tensor], Tensor]


def _mean(router: Router, own: Own) -> Tensor:
    return own().mean(0)


def _uniform(router: Router, own: Own) -> Tensor:
    gates = own()
    return torch.full_like(gates, 1 / router.outputs)


def _shuffled(router: Router, own: Own) -> Tensor:
    gates = own()
    return gates[torch.randperm(gates.shape[0], device=gates.device)]


def _argmax(router: Router, own: Own) -> Tensor:
    gates = own()
    return torch.zeros_like(gates).scatter_(2, gates.argmax(2, keepdim=True), 1)


RULES: dict[Named, Callable[[Router, Own], Tensor] | None] = {
    "learned": None,  # the router goes its own way, to the bit
    "mean": _mean,
    "uniform": _uniform,
    "shuffled": _shuffled,
    "argmax": _argmax,
}


def _rule_of(rule: Rule) -> Callable[[Router, Own], Tensor] | None:
    if isinstance(rule, str):
        if rule not in RULES:
            raise ValueError(f"route: a rule must be one of {', '.join(RULES)}, got {rule!r}")
        return RULES[rule]
    if isinstance(rule, Tensor):
        return lambda router, own: rule
    if callable(rule):
        return lambda router, own: rule(own())
    raise TypeError(
        f"route: a rule must be a name, a tensor or a function, got {type(rule).__name__}"
    )


@contextmanager
def route(model: nn.Module, rules: Rule | Mapping[str, Rule]) -> Iterator[None]:
    """Gives routers of `model` other gates than their own, until the context is left.

    It works for eager and fused routers, and for a model compiled before or within the context. A
    call's own `gates=` wins over it; the context entered last wins over others. Checkpointed
    routers run again in the backward, which therefore has to run within the same context.

    Args:
        model: any module that holds routers, or is one.
        rules: for all routers, or name of the router (as in `named_modules`) -> rule. A rule is
            a tensor, [m, n] or [B, m, n]; a function of the router's own gates [B, m, n] that
            returns such, an `nn.Identity()` for instance, whose hooks then see and may change the
            gates; or a name: "learned" (its own), "mean" (over the images of the call),
            "uniform" (1/n), "shuffled" (those of another image of the call, at random) or
            "argmax" (1 for each path's largest gate, else 0).

    Raises:
        TypeError: model is no module, or a rule is none of these.
        ValueError: no router has this name, or no rule.

    Example:
        >>> model = nn.Sequential(CrossConnect(4, inputs=1, outputs=2))
        >>> with route(model, "uniform"):
        ...     ys = model(torch.ones(1, 4, 2, 2))
        >>> ys[0][0, 0, 0, 0].item()
        0.5
    """
    routers = routers_of("route", model)
    if not isinstance(rules, Mapping):
        rules = dict.fromkeys(routers, rules)
    for name in rules:
        if name not in routers:
            known = ", ".join(map(repr, routers)) or "none"
            raise ValueError(f"route: {name!r} is no router of the model; its routers: {known}")
    made = {name: _rule_of(rule) for name, rule in rules.items()}
    try:
        for name, one in made.items():
            routers[name]._rules = (*routers[name]._rules, one)
        yield
    finally:
        for name, one in made.items():
            # Contexts need not be left in the order in which they were entered.
            rules_of = routers[name]._rules
            at = max(q for q, other in enumerate(rules_of) if other is one)
            routers[name]._rules = rules_of[:at] + rules_of[at + 1 :]
