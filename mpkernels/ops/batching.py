"""vmap of an operator: a batch of batches is a larger batch.

Three ways, with the same values:

- fold: every map, gate and gradient has the batch in one dimension. Where the parameters are shared
  and nobody asks for their gradients, the members of vmap join that batch: one call of the kernel.
- loop: parameters differ between members (an ensemble), or each member has gradients of its own:
  one call of the kernel for each member.
- definition: where so many small calls would take longer, PyTorch maps the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpkernels.ops.flags import flags_of
from mpkernels.ops.internals import (
    REVERSE_MODE,
    VMAP,
    any_requires_grad,
    dual_level_is_open,
    transforms_in_force,
)

FOLD, LOOP, DEFINITION = "fold", "loop", "definition"

# A call of the kernel costs the host some 50 microseconds, a mapped definition one to five
# milliseconds however many members it has; but it moves several times the kernel's bytes.
FEW_MEMBERS = 16
LARGE_MEMBER = 1 << 16  # elements of its maps

# Arguments with a value for each sample. The others are parameters, which all samples share.
OF_SAMPLES = frozenset(("xs", "us", "gates", "grads", "grad", "kept"))
_MAPS = frozenset(("xs", "us", "grads", "kept"))
# Operator and argument ("" for its results) of which the last has samples in dimension 1.
_PREDICTIONS = frozenset((("cross_predict", ""), ("cross_predict_backward", "kept")))

Flat = Sequence[Any]
Call = Callable[[list[Any]], Sequence[Tensor]]


def why_not_served(parameters: Sequence[Tensor | None]) -> str | None:
    """Why an operator's autograd.Function does not serve the transforms of torch.func in force.

    It serves vmap, and one reverse mode within or around it.
    """
    transforms = transforms_in_force()
    derivatives = [kind for kind in transforms if kind != VMAP]
    if dual_level_is_open() or derivatives not in ([], [REVERSE_MODE]):
        return "forward mode, or a derivative of a derivative, is in force"
    within = derivatives and VMAP in transforms[: transforms.index(REVERSE_MODE)]
    if within and any_requires_grad(*parameters):
        return "each member of vmap has gradients of its own at the parameters"
    return None


def way(names: Sequence[str], flat: Flat, dims: Flat, members: int, wanted: int | None) -> str:
    """How a call is mapped.

    Args:
        names: of the arguments to which the flat tensors belong.
        flat, dims: the tensors, and which of their dimensions counts the members; None: shared.
        members: their number.
        wanted: of a backward, the flags of the arguments that follow `grads` and `kept`.
    """
    parameters_differ = any(d is not None for n, d in zip(names, dims) if n not in OF_SAMPLES)
    maps = [(t, d) for n, t, d in zip(names, flat, dims) if n in _MAPS and t is not None]
    maps_differ = any(d is not None for _, d in maps)
    if maps_differ and not parameters_differ and not _wants_parameters(names, wanted):
        return FOLD
    elements = sum(t.numel() // (1 if d is None else members) for t, d in maps)
    return LOOP if members <= FEW_MEMBERS or elements >= LARGE_MEMBER else DEFINITION


def _wants_parameters(names: Sequence[str], wanted: int | None) -> bool:
    if wanted is None:
        return False
    arguments = [name for name in names if name not in ("grads", "grad", "kept")]
    flags = flags_of(wanted, len(arguments))
    return any(w and name not in OF_SAMPLES for w, name in zip(flags, arguments))


def samples_of(operator: str, argument: str, is_last: bool) -> int:
    """The dimension of the samples in a tensor of an argument, or of the results: ""."""
    return int(is_last and (operator, argument) in _PREDICTIONS)


def fold(
    operator: str, call: Call, names: Sequence[str], flat: Flat, dims: Flat, members: int
) -> list[Tensor]:
    """One call with all members in the batch; results count the members in dimension 0."""
    joined, following = [], [*names[1:], ""]
    for name, after, t, dim in zip(names, following, flat, dims):
        if t is not None and name in OF_SAMPLES:
            at = samples_of(operator, name, after != name)
            t = t.unsqueeze(at).expand(*t.shape[:at], members, *t.shape[at:]) if dim is None else t
            t = (t if dim is None else t.movedim(dim, at)).flatten(at, at + 1)
        joined.append(t)
    results = call(joined)
    parted = []
    for place, y in enumerate(results, 1):
        at = samples_of(operator, "", place == len(results))
        parted.append(y.unflatten(at, (members, y.shape[at] // members)).movedim(at, 0))
    return parted


def loop(call: Call, flat: Flat, dims: Flat, members: int) -> list[Tensor]:
    """One call for each member; results count the members in dimension 0."""
    each = [[t] * members if dim is None else t.unbind(dim) for t, dim in zip(flat, dims)]
    return [torch.stack(ys) for ys in zip(*(call(list(one)) for one in zip(*each)))]


def mapped(call: Call, flat: Flat, dims: Flat) -> list[Tensor]:
    """PyTorch maps the definition."""

    def of_tensors(*given: Any) -> tuple[Tensor, ...]:
        return tuple(call(list(given)))

    return list(torch.vmap(of_tensors, tuple(dims))(*flat))
