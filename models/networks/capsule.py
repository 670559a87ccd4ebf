"""Capsules: vectors whose length is a probability, routed by agreement.

Follows Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules" (2017), its equations 1 to 4
and its procedure 1. B batch, I capsules below of D numbers, J capsules above of E numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu


def squash(s: Tensor) -> Tensor:
    """Keeps the direction of vectors [..., E] and brings their length below 1 (equation 1).

    v = |s|^2 / (1 + |s|^2) * s / |s|, written without the division by |s| that fails at 0.
    """
    square = s.square().sum(-1, keepdim=True)
    # The smallest normal number keeps the gradient of the root finite where s is 0.
    return s * (square + torch.finfo(s.dtype).tiny).sqrt() / (1 + square)


def coupling(b: Tensor, none: bool) -> Tensor:
    """Routing coefficients c [B, I, J] of log priors b [B, I, J]: a softmax over J (equation 3).

    With `none`, a capsule may also belong to none of the J: a further, never updated log prior of
    0 takes part in the softmax, and the J coefficients then sum to less than 1.
    """
    return pad(b, (0, 1)).softmax(-1)[..., :-1] if none else b.softmax(-1)


def route(u: Tensor, iterations: int, none: bool = False) -> tuple[Tensor, Tensor]:
    """Routing by agreement (procedure 1).

    Args:
        u: predictions [B, J, I, E], of capsule i below for capsule j above.
        iterations: rounds, at least 1; the coefficients of the first are all equal.
        none: see `coupling`.

    Returns:
        capsules v [B, J, E] and the last coefficients [B, I, J].
    """
    batch, above, below, _ = u.shape
    b = u.new_zeros(batch, below, above)
    for last in [False] * (iterations - 1) + [True]:
        c = coupling(b, none)
        v = squash((c.transpose(1, 2).unsqueeze(2) @ u).squeeze(2))
        if not last:
            b = b + (u @ v.unsqueeze(-1)).squeeze(-1).transpose(1, 2)
    return v, c


class CapsuleLayer(nn.Module):
    """Capsules that are fully connected to the ones below: u_ij = W_ij u_i, then routing.

    Args:
        below, below_size: I and D.
        above, above_size: J and E.
        iterations: of routing.
        none: whether a capsule may be routed to none of those above.
    """

    def __init__(
        self,
        below: int,
        below_size: int,
        above: int,
        above_size: int,
        iterations: int = 3,
        none: bool = False,
    ) -> None:
        super().__init__()
        self.above, self.iterations, self.none = above, iterations, none
        self.weight = nn.Parameter(torch.empty(below, below_size, above * above_size))
        # The first round sends 1 / J of each prediction, and adds I of them: s is then about as
        # long as the capsules below.
        nn.init.normal_(self.weight, std=above / math.sqrt(below * above_size))

    def predict(self, u: Tensor) -> Tensor:
        """Capsules [B, I, D] to predictions [B, J, I, E]."""
        together = torch.bmm(u.transpose(0, 1), self.weight)
        predictions: Tensor = together.unflatten(-1, (self.above, -1))
        return predictions.permute(1, 2, 0, 3).contiguous()

    def forward(self, u: Tensor) -> Tensor:
        """Capsules [B, I, D] to capsules [B, J, E]."""
        return route(self.predict(u), self.iterations, self.none)[0]


def margin_loss(lengths: Tensor, target: Tensor) -> Tensor:
    """Long where the class is there, short where it is not (equation 4); the mean over the batch.

    T_k max(0, 0.9 - |v_k|)^2 + 0.5 (1 - T_k) max(0, |v_k| - 0.1)^2, summed over classes k.

    Args:
        lengths: [B, classes].
        target: labels [B].
    """
    there = nn.functional.one_hot(target, lengths.shape[1])
    missed, seen = relu(0.9 - lengths).square(), relu(lengths - 0.1).square()
    loss: Tensor = (there * missed + 0.5 * (1 - there) * seen).sum(1).mean()
    return loss
