"""Every function and router of the package as a function of tensors, fused and eager."""

import copy
from functools import partial

import torch
from torch.func import functional_call

import mpkernels as mpk
from mpkernels import eager, functional
from mpkernels.selftest import OPERATORS
from proof.problems import calls

F64 = torch.float64
B, C, M, N, K = 2, 3, 2, 2, 3
SIZES = {"B": B, "C": C, "m": M, "n": N, "K": K, "D": 2}


def values(*shape):
    return torch.randn(shape, dtype=F64)


def maps():
    return values(B, C, 2, 2)


def gate_parameters():
    return [values(M, K, C), values(M, K), values(M, N, K), values(M, N)]


FUNCTIONS = (*OPERATORS, "gate_of_vectors", "mix_by_channel")


def of_function(name, functions, a, b, *rest):
    """All outputs of a function of the package, given all its tensors."""
    return tuple(calls.call(name, functions, [a, b], rest))


def tensors_of(name):
    """All tensors of a function; of two maps one is channels_last."""
    spatial = () if name == "mix_by_channel" else (2, 2)
    made = calls.random_arguments(name, SIZES, spatial, values)
    paths, *rest = made.values()
    if paths[0].dim() > 2:
        last = 0 if "gates" in made else 1
        paths[last] = paths[last].contiguous(memory_format=torch.channels_last)
    return [*paths, *rest]


# Name -> a factory of the router, and a factory of one path.
ROUTERS = {
    "CrossConnect": (lambda package: package.CrossConnect(C, M, N, K), maps),
    "CrossPredictConv2d": (
        lambda package: package.CrossPredictConv2d(C, 2, 2, M, N, 1, 1, K),
        maps,
    ),
    "CrossPredictLinear": (
        lambda package: package.CrossPredictLinear(C, 2, M, N, K),
        lambda: values(B, C),
    ),
    "CrossStitch": (lambda package: package.CrossStitch(N), maps),
}


def of_router(router, names, a, b, *parameters):
    """All outputs of a router as a function of its paths and parameters."""
    ys, gates = functional_call(router, dict(zip(names, parameters)), ([a, b], True))
    return (*ys, gates)


def problem(name):
    """The fused function, the eager one, and the tensors that both take."""
    if name in FUNCTIONS:
        fused, definition = (partial(of_function, name, each) for each in (functional, eager))
        return fused, definition, tensors_of(name)
    build, path = ROUTERS[name]
    fused = build(mpk).double()
    definition = mpk.unfuse(copy.deepcopy(fused))
    state = dict(fused.named_parameters())
    flat = [path(), path(), *(p.detach().clone() for p in state.values())]
    return partial(of_router, fused, [*state]), partial(of_router, definition, [*state]), flat
