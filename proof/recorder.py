"""Records launches instead of making them: what a launcher would run, with its arguments."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch

from mpkernels.triton import combine, cross_connect, gate, gate_parameter_grads, mix
from proof.launches import intercepted
from proof.problems.networks import Router


class Launched(NamedTuple):
    kernel: object
    grid: tuple
    arguments: tuple
    constants: dict
    options: dict  # of the compiler


@contextlib.contextmanager
def recorded_launches():
    """Yields the list of launches; nothing runs, outputs stay unset."""
    launches: list[Launched] = []

    def instead(kernel, grid):
        def launch(*arguments, **named):
            options = {name: named.pop(name) for name in ("num_warps", "maxnreg") if name in named}
            launches.append(Launched(kernel, grid, arguments, named, options))

        return launch

    with intercepted(instead):
        yield launches


def empty_paths(router: Router, batch: int, dtype, channels_last=False) -> list[torch.Tensor]:
    """Maps of a router whose memory nobody touches."""
    shape = (batch, router.channels, *router.spatial)
    format = torch.channels_last if channels_last and router.spatial else torch.contiguous_format
    return [torch.empty(shape, dtype=dtype, memory_format=format) for _ in range(router.inputs)]


def empty_predictions(router: Router, batch: int, dtype, channels_last=False):
    """The m maps and the parameters that combine would take, and the gradients of its n outputs."""
    m, n, c = router.inputs, router.outputs, router.channels
    us = empty_paths(router._replace(channels=n * c), batch, dtype, channels_last)
    grads = empty_paths(router._replace(inputs=n), batch, dtype, channels_last)
    return us, [torch.empty(*s) for s in ((batch, m, n), (m, n * c), (n, c), (n, c))], grads


def combine_launches_of(router: Router, dtype, batch=128, channels_last=False, frozen=False):
    """Launches of combine, forward and backward; frozen: no parameter wants a gradient."""
    us, parameters, grads = empty_predictions(router, batch, dtype, channels_last)
    with recorded_launches() as forward:
        combine.combine(us, *parameters, True)
    wanted = [True] * (len(us) + 1) + [not frozen] * 3
    with recorded_launches() as backward:
        combine.combine_backward(grads, us, *parameters, True, wanted)
    return forward, backward


def launches_of(router: Router, dtype, batch=128, channels_last=False, frozen=False):
    """Launches of a forward and of a backward in which everything (frozen: all maps) is wanted."""
    m, n, channels = router.inputs, router.outputs, router.channels
    xs = empty_paths(router, batch, dtype, channels_last)
    parameters = [torch.empty(*s) for s in ((m, 16, channels), (m, 16), (m, n, 16), (m, n))]
    with recorded_launches() as forward:
        ys, gates, pooled = cross_connect.cross_connect(xs, *parameters)
    wanted = [True] * m + [not frozen] * 4
    with recorded_launches() as backward:
        cross_connect.cross_connect_backward(ys, gates, xs, gates, pooled, *parameters, wanted)
    return forward, backward


def other_launches_of(router: Router, dtype, batch=4, channels_last=False):
    """Launches of all launchers of the package, with gradients absent and parameters left out."""
    m, n, channels = router.inputs, router.outputs, router.channels
    xs = empty_paths(router, batch, dtype, channels_last)
    grads = [None, *empty_paths(router._replace(inputs=n - 1), batch, dtype, channels_last)]
    given = [torch.empty(*s) for s in ((m, 16, channels), (m, 16), (m, n, 16), (m, n))]
    of_mix = [torch.empty(batch, m, n), torch.empty(batch, m, n, channels)]
    us, (of_paths, _, scale, _), of_ys = empty_predictions(router, batch, dtype, channels_last)
    of_combine = (of_paths, None, scale, None)
    with recorded_launches() as forward:
        ys, gates, pooled = cross_connect.cross_connect(xs, *given)
        gate.gate(xs, *given)
        for weights in of_mix:
            mix.mix(xs, weights)
        combine.combine(us, *of_combine, False)
    wanted = [False, *[True] * (m - 1)]
    with recorded_launches() as backward:
        cross_connect.cross_connect_backward(
            grads, None, xs, gates, pooled, *given, [*wanted, True, True, True, False]
        )
        gate.gate_backward(gates, gates, pooled, *given, [True] * 4)
        for weights in of_mix:
            mix.mix_backward(grads, xs, weights, [*wanted, True])
        combine.combine_backward(
            [None, *of_ys[1:]], us, *of_combine, False, [*wanted, True, False, True, False]
        )
        sizes = (n, 16, 16, channels)  # of a batch of several parts
        of_parts = [torch.empty(300, m, size) for size in sizes]
        gate_parameter_grads.parameter_gradients(*of_parts, given, [True] * 4)
    return forward, backward
