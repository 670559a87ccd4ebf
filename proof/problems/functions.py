"""Every function and router of the package as a function of tensors, fused and eager."""

import copy
from functools import partial

import torch
from torch.func import functional_call

import mpkernels as mpk
from mpkernels import eager, functional

F64 = torch.float64
B, C, M, N, K = 2, 3, 2, 2, 3


def values(*shape):
    return torch.randn(shape, dtype=F64)


def maps(channels=C, last=False):
    x = values(B, channels, 2, 2)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def gate_parameters():
    return [values(M, K, C), values(M, K), values(M, N, K), values(M, N)]


def of_gate(functions, a, b, *parameters):
    return (functions.gate([a, b], *parameters),)


def of_cross_connect(functions, a, b, *parameters):
    ys, gates = functions.cross_connect([a, b], *parameters)
    return (*ys, gates)


def of_mix(functions, a, b, gates):
    return tuple(functions.mix([a, b], gates))


def of_combine(functions, a, b, gates, bias, scale, shift):
    return tuple(functions.combine([a, b], gates, bias, True, scale, shift))


def of_cross_predict(functions, a, b, weight, bias, w1, b1, w2, b2):
    ys, gates = functions.cross_predict([a, b], weight, bias, w1, b1, w2, b2)
    return (*ys, gates)


# Name -> a function of all its tensors, and a factory of the tensors.
FUNCTIONS = {
    "gate": (of_gate, lambda: [maps(), maps(last=True), *gate_parameters()]),
    "gate_of_vectors": (of_gate, lambda: [values(B, C), values(B, C), *gate_parameters()]),
    "cross_connect": (of_cross_connect, lambda: [maps(), maps(last=True), *gate_parameters()]),
    "mix": (of_mix, lambda: [maps(last=True), maps(), values(B, M, N)]),
    "mix_by_channel": (of_mix, lambda: [values(B, C), values(B, C), values(B, M, N, C)]),
    "combine": (
        of_combine,
        lambda: [maps(N * C), maps(N * C), values(B, M, N), values(M, N * C), values(N, C),
                 values(N, C)],
    ),
    "cross_predict": (
        of_cross_predict,
        lambda: [values(B, C), values(B, C), values(M, N * 2, C), values(M, N * 2),
                 *gate_parameters()],
    ),
}  # fmt: skip

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
        function, make = FUNCTIONS[name]
        return partial(function, functional), partial(function, eager), make()
    build, path = ROUTERS[name]
    fused = build(mpk).double()
    definition = mpk.unfuse(copy.deepcopy(fused))
    state = dict(fused.named_parameters())
    flat = [path(), path(), *(p.detach().clone() for p in state.values())]
    return partial(of_router, fused, [*state]), partial(of_router, definition, [*state]), flat
