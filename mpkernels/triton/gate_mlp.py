"""The gate of one path as device functions: MLP, softmax and their gradients (paper Eq. 1 to 3).

Every function takes several samples at once: z is [N, C], hidden units [N, K], gates [N, n].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Gate(NamedTuple):
    """A gate's parameters as kernels take them: contiguous, biases None or not."""

    w1: Tensor
    b1: Tensor | None
    w2: Tensor
    b2: Tensor | None
    kind: tl.constexpr

    @property
    def sizes(self) -> tuple[int, int, int]:
        """m, n, K."""
        return len(self.w1), self.w2.shape[1], self.w1.shape[1]


def as_gate(parameters: Sequence[Tensor | None], kind: int) -> Gate:
    """The `gate` and `kind` of an operator."""
    contiguous = (None if p is None else p.contiguous() for p in parameters)
    return Gate(*contiguous, tl.constexpr(kind))  # type: ignore[arg-type,call-arg]


@triton.jit
def load_w1(
    gate, i, c0, channels, like,
    HIDDEN: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """W1_i of channels [c0, c0 + BLOCK_CHANNELS): [BLOCK_HIDDEN, BLOCK_CHANNELS]."""
    k, c = tl.arange(0, BLOCK_HIDDEN), c0 + tl.arange(0, BLOCK_CHANNELS)
    inside = (k < HIDDEN)[:, None] & (c < channels)[None, :]
    at = (i * HIDDEN + k[:, None]) * channels + c[None, :]
    return tl.load(gate.w1 + at, mask=inside, other=0.0).to(like.dtype)


@triton.jit
def load_w2(
    gate, i, like,
    HIDDEN: tl.constexpr, OUTPUTS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """W2_i: [BLOCK_OUTPUTS, BLOCK_HIDDEN]."""
    k, j = tl.arange(0, BLOCK_HIDDEN), tl.arange(0, BLOCK_OUTPUTS)
    inside = (j < OUTPUTS)[:, None] & (k < HIDDEN)[None, :]
    at = (i * OUTPUTS + j[:, None]) * HIDDEN + k[None, :]
    return tl.load(gate.w2 + at, mask=inside, other=0.0).to(like.dtype)


@triton.jit
def times_w1(
    gate, i, z, c0, channels,
    HIDDEN: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The part of W1_i z that channels [c0, c0 + BLOCK_CHANNELS) add: [N, BLOCK_HIDDEN]."""
    w = load_w1(gate, i, c0, channels, z, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS)
    return tl.sum(w[None, :, :] * z[:, None, :], 2)


@triton.jit
def activate(total, gate, i, HIDDEN: tl.constexpr, BLOCK_HIDDEN: tl.constexpr):
    """relu(total + b1_i): [N, BLOCK_HIDDEN]."""
    k = tl.arange(0, BLOCK_HIDDEN)
    if gate.b1 is not None:
        bias = tl.load(gate.b1 + i * HIDDEN + k, mask=k < HIDDEN, other=0.0)
        total += bias.to(total.dtype)[None, :]
    return tl.where(total < 0, 0.0, total)  # keeps NaN, which maximum would drop


@triton.jit
def gates_of_hidden(
    h, gate, i,
    HIDDEN: tl.constexpr, OUTPUTS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """softmax(W2_i h + b2_i): [N, BLOCK_OUTPUTS], 0 beyond OUTPUTS."""
    j = tl.arange(0, BLOCK_OUTPUTS)
    w = load_w2(gate, i, h, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS)
    logits = tl.sum(w[None, :, :] * h[:, None, :], 2)
    if gate.b2 is not None:
        bias = tl.load(gate.b2 + i * OUTPUTS + j, mask=j < OUTPUTS, other=0.0)
        logits += bias.to(h.dtype)[None, :]
    logits = tl.where((j < OUTPUTS)[None, :], logits, float("-inf"))
    e = tl.exp(logits - tl.max(logits, 1)[:, None])
    return e / tl.sum(e, 1)[:, None]


@triton.jit
def element(rows, index, SIZE: tl.constexpr):
    """rows[:, index] of rows [N, SIZE]: [N]."""
    return tl.sum(tl.where((tl.arange(0, SIZE) == index)[None, :], rows, 0.0), 1)


@triton.jit
def differentiate_gate(
    g, d, h, gate, i,
    HIDDEN: tl.constexpr, OUTPUTS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """dA = g (d - <g, d>) and dH = 1(h > 0) W2^T dA."""
    grad_logits = g * (d - tl.sum(g * d, 1)[:, None])
    w = load_w2(gate, i, h, HIDDEN, OUTPUTS, BLOCK_HIDDEN, BLOCK_OUTPUTS)
    # As in PyTorch's relu, a NaN activation lets its gradient through.
    grad_hidden = tl.where(h <= 0, 0.0, tl.sum(w[None, :, :] * grad_logits[:, :, None], 1))
    return grad_logits, grad_hidden


@triton.jit
def times_w1_transposed(
    gate, i, grad_hidden, c0, channels,
    HIDDEN: tl.constexpr, BLOCK_HIDDEN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """dZ = W1_i^T dH of channels [c0, c0 + BLOCK_CHANNELS): [N, BLOCK_CHANNELS]."""
    w = load_w1(gate, i, c0, channels, grad_hidden, HIDDEN, BLOCK_HIDDEN, BLOCK_CHANNELS)
    return tl.sum(w[None, :, :] * grad_hidden[:, :, None], 1)
