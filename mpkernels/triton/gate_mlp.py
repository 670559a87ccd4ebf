"""Gates as device functions: MLP, softmax and their gradients (paper Eq. 1 to 3).

They treat P paths of one sample at once, a power of two of which the last may not exist. The paths
are the last axis, which one thread holds: z is [C, P], W1 [K, C, P], hidden units [K, P]. What
there is of each output (w2, b2, gates and their gradients) is a tuple of n, [K, P] or [P], so that
a softmax is arithmetic within a thread. A kernel loads all parameters first; they arrive while it
waits for its maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from mpkernels.triton.sums import joined


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
    gate, first: tl.constexpr, c0, channels, ACC: tl.constexpr, INPUTS: tl.constexpr,
    PATHS: tl.constexpr, HIDDEN: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """W1 of channels [c0, c0 + BLOCK_CHANNELS) of PATHS paths from `first` on: [K, C, PATHS]."""
    k, c = tl.arange(0, BLOCK_HIDDEN)[:, None], c0 + tl.arange(0, BLOCK_CHANNELS)[None, :]
    inside = (k < HIDDEN) & (c < channels)
    each = ()
    for p in tl.static_range(PATHS):
        if first + p < INPUTS:
            at = gate.w1 + ((first + p) * HIDDEN + k) * channels + c
            each = each + (tl.load(at, mask=inside, other=0.0).to(ACC),)
    return joined(each)


@triton.jit
def load_b1(
    gate, i, ACC: tl.constexpr, INPUTS: tl.constexpr,
    HIDDEN: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """b1 of the paths i [P], 0 where there is none: [K, P]."""
    i, k = i[None, :], tl.arange(0, BLOCK_HIDDEN)[:, None]
    if gate.b1 is None:
        return tl.zeros([BLOCK_HIDDEN, i.shape[1]], ACC)
    else:
        inside = (i < INPUTS) & (k < HIDDEN)
        return tl.load(gate.b1 + i * HIDDEN + k, mask=inside, other=0.0).to(ACC)


@triton.jit
def load_w2(
    gate, i, ACC: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    HIDDEN: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """The rows of W2 of the paths i [P], one of each output: n times [K, P]."""
    i, k = i[None, :], tl.arange(0, BLOCK_HIDDEN)[:, None]
    inside = (i < INPUTS) & (k < HIDDEN)
    rows = ()
    for o in tl.static_range(OUTPUTS):
        at = gate.w2 + (i * OUTPUTS + o) * HIDDEN + k
        rows = rows + (tl.load(at, mask=inside, other=0.0).to(ACC),)
    return rows


@triton.jit
def load_b2(gate, i, ACC: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr):
    """b2 of the paths i [P], 0 where there is none: n times [P]."""
    biases = ()
    for o in tl.static_range(OUTPUTS):
        if gate.b2 is None:
            biases = biases + (tl.zeros(i.shape, ACC),)
        else:
            at = gate.b2 + i * OUTPUTS + o
            biases = biases + (tl.load(at, mask=i < INPUTS, other=0.0).to(ACC),)
    return biases


@triton.jit
def load_of_outputs(values, path, inside, ACC: tl.constexpr, OUTPUTS: tl.constexpr):
    """Gates of the paths, or their gradients, [.., n] in memory, 0 where there are none: n [P]."""
    each = ()
    for o in tl.static_range(OUTPUTS):
        if values is None:
            each = each + (tl.zeros(path.shape, ACC),)
        else:
            each = each + (tl.load(values + path * OUTPUTS + o, mask=inside, other=0.0),)
    return each


@triton.jit
def of_path(values, i, q):
    """The scalar that `values` [P], of which a thread holds all, has for path q."""
    return tl.sum(tl.where(i == q, values, 0.0), 0)


@triton.jit
def times_w1(w1, z):
    """The part of W1 z that the channels of w1 add: [K, P]."""
    return tl.sum(w1 * z[None, :, :], 1)


@triton.jit
def activate(total, b1, HIDDEN: tl.constexpr, BLOCK_HIDDEN: tl.constexpr):
    """relu(total + b1): [K, P], 0 beyond HIDDEN."""
    total += b1
    h = tl.where(total < 0, 0.0, total)  # keeps NaN, which maximum would drop
    if HIDDEN < BLOCK_HIDDEN:  # 0 times an infinite mean is NaN there
        h = tl.where((tl.arange(0, BLOCK_HIDDEN) < HIDDEN)[:, None], h, 0.0)
    return h


@triton.jit
def gates_of_hidden(h, w2, b2, OUTPUTS: tl.constexpr):
    """softmax(W2 h + b2): n times [P]."""
    logits = ()
    for o in tl.static_range(OUTPUTS):
        logits = logits + (tl.sum(w2[o] * h, 0) + b2[o],)
    most = logits[0]
    for o in tl.static_range(1, OUTPUTS):
        most = tl.maximum(most, logits[o])
    powers = ()
    for o in tl.static_range(OUTPUTS):
        powers = powers + (tl.exp(logits[o] - most),)
    total = powers[0]
    for o in tl.static_range(1, OUTPUTS):
        total += powers[o]
    gates = ()
    for o in tl.static_range(OUTPUTS):
        gates = gates + (powers[o] / total,)
    return gates


@triton.jit
def differentiate_gate(g, d, h, w2, OUTPUTS: tl.constexpr):
    """dA = g (d - <g, d>), n times [P], and dH = 1(h > 0) W2^T dA, [K, P]."""
    dot = g[0] * d[0]
    for o in tl.static_range(1, OUTPUTS):
        dot += g[o] * d[o]
    grad_logits = ()
    grad_hidden = tl.zeros(h.shape, h.dtype)
    for o in tl.static_range(OUTPUTS):
        da = g[o] * (d[o] - dot)
        grad_logits = grad_logits + (da,)
        grad_hidden += w2[o] * da[None, :]
    # As in PyTorch's relu, a NaN activation lets its gradient through.
    return grad_logits, tl.where(h <= 0, 0.0, grad_hidden)


@triton.jit
def times_w1_transposed(w1, grad_hidden):
    """dZ = W1^T dH of the channels of w1: [C, P]."""
    return tl.sum(w1 * grad_hidden[:, None, :], 0)
