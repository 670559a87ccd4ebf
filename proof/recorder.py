"""Records launches instead of running them: which kernel, grid and arguments a launcher chose."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch

from mpkernels.eager.functional import SOFTMAX
from mpkernels.ops.flags import mask_of
from mpkernels.triton import combine, cross_connect, gate, gate_parameter_grads, mix
from proof.launches import intercepted
from proof.problems.networks import Router

COMPILER_OPTIONS = ("num_warps", "maxnreg")


class Launched(NamedTuple):
    kernel: object
    grid: tuple
    arguments: tuple
    constants: dict
    options: dict  # for the compiler


@contextlib.contextmanager
def recorded_launches():
    """Yields the list of launches; nothing runs, so outputs stay uninitialised."""
    launches: list[Launched] = []

    def record(kernel, grid):
        def launch(*arguments, **named):
            options = {name: named[name] for name in COMPILER_OPTIONS if name in named}
            constants = {name: value for name, value in named.items() if name not in options}
            launches.append(Launched(kernel, grid, arguments, constants, options))

        return launch

    with intercepted(record):
        yield launches


def empty_paths(router: Router, batch: int, dtype, channels_last=False) -> list[torch.Tensor]:
    """A router's maps, uninitialised since no kernel runs."""
    shape = (batch, router.channels, *router.spatial)
    format = torch.channels_last if channels_last and router.spatial else torch.contiguous_format
    return [torch.empty(shape, dtype=dtype, memory_format=format) for _ in range(router.inputs)]


def empty_predictions(router: Router, batch: int, dtype, channels_last=False):
    """The m maps and the parameters of combine, and the gradients of its n outputs."""
    m, n, c = router.inputs, router.outputs, router.channels
    us = empty_paths(router._replace(channels=n * c), batch, dtype, channels_last)
    grads = empty_paths(router._replace(inputs=n), batch, dtype, channels_last)
    return us, [torch.empty(*s) for s in ((batch, m, n), (m, n * c), (n, c), (n, c))], grads


def combine_launches_of(router: Router, dtype, batch=128, channels_last=False, frozen=False):
    """Launches of combine, forward and backward; if frozen, only maps and gates need gradients."""
    us, parameters, grads = empty_predictions(router, batch, dtype, channels_last)
    gates, *affine = parameters
    with recorded_launches() as forward:
        combine.combine(us, gates, affine, True)
    wanted = mask_of((*(True,) * (len(us) + 1), *(not frozen,) * 3))
    with recorded_launches() as backward:
        combine.combine_backward(grads, [], us, gates, affine, True, wanted)
    return forward, backward


def mix_launches_of(router: Router, dtype, batch=128, channels_last=False):
    """Launches of mix, forward and backward, with gates of samples and with gates of channels."""
    m, n = router.inputs, router.outputs
    xs = empty_paths(router, batch, dtype, channels_last)
    grads = empty_paths(router._replace(inputs=n), batch, dtype, channels_last)
    gates = [torch.empty(batch, m, n), torch.empty(batch, m, n, router.channels)]
    with recorded_launches() as forward:
        for weights in gates:
            mix.mix(xs, weights)
    with recorded_launches() as backward:
        for weights in gates:
            mix.mix_backward(grads, [], xs, weights, mask_of((True,) * (m + 1)))
    return forward, backward


def launches_of(router: Router, dtype, batch=128, channels_last=False, frozen=False):
    """Launches of cross_connect, forward and backward; if frozen, only maps need gradients."""
    m, n, channels = router.inputs, router.outputs, router.channels
    xs = empty_paths(router, batch, dtype, channels_last)
    parameters = [torch.empty(*s) for s in ((m, 16, channels), (m, 16), (m, n, 16), (m, n))]
    with recorded_launches() as forward:
        *ys, gates, pooled = cross_connect.cross_connect(xs, parameters, SOFTMAX)
    wanted = mask_of((*(True,) * m, *(not frozen,) * 4))
    with recorded_launches() as backward:
        cross_connect.cross_connect_backward(
            [*ys, gates], [gates, pooled], xs, parameters, SOFTMAX, wanted
        )
    return forward, backward


def other_launches_of(router: Router, dtype, batch=4, channels_last=False):
    """Launches of every launcher, with some gradients and optional parameters absent."""
    m, n, channels = router.inputs, router.outputs, router.channels
    xs = empty_paths(router, batch, dtype, channels_last)
    grads = [None, *empty_paths(router._replace(inputs=n - 1), batch, dtype, channels_last)]
    parameters = [torch.empty(*s) for s in ((m, 16, channels), (m, 16), (m, n, 16), (m, n))]
    bare = [parameters[0], None, parameters[2], None]  # without biases
    mix_gates = [torch.empty(batch, m, n), torch.empty(batch, m, n, channels)]
    predictions = empty_predictions(router, batch, dtype, channels_last)
    us, (combine_gates, _, scale, _), combine_grads = predictions
    combine_rest = (combine_gates, (None, scale, None), False)
    with recorded_launches() as forward:
        *ys, gates, pooled = cross_connect.cross_connect(xs, bare, SOFTMAX)
        gate.gate(xs, bare, SOFTMAX)
        for weights in mix_gates:
            mix.mix(xs, weights)
        combine.combine(us, *combine_rest)
    wanted, kept = (False, *(True,) * (m - 1)), [gates, pooled]
    with recorded_launches() as backward:
        cross_connect.cross_connect_backward(
            [*grads, None], kept, xs, bare, SOFTMAX, mask_of((*wanted, True, False, True, False)),
        )  # fmt: skip
        gate.gate_backward(gates, kept, bare, SOFTMAX, mask_of((True, False, True, False)))
        for weights in mix_gates:
            mix.mix_backward(grads, [], xs, weights, mask_of((*wanted, True)))
        combine.combine_backward(
            [None, *combine_grads[1:]], [], us, *combine_rest,
            mask_of((*wanted, True, False, True, False)),
        )  # fmt: skip
        sizes = (n, 16, 16, channels)
        # A batch of 300 is summed in several parts.
        terms = [torch.empty(300, m, size) for size in sizes]
        gate_parameter_grads.parameter_gradients(*terms, parameters, [True] * 4)
    return forward, backward
