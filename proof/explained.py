"""Routers of every kind, and what really runs in them, against which `explain` is held."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import mpkernels as mpk


def maps(paths=2, channels=4, size=6, batch=2, **options):
    return [torch.randn(batch, channels, size, size, **options) for _ in range(paths)]


def vectors(paths=2, channels=4, batch=2, **options):
    return [torch.randn(batch, channels, **options) for _ in range(paths)]


def conv(module=mpk, **options):
    return module.CrossPredictConv2d(4, 3, 3, inputs=2, outputs=3, padding=1, **options)


ROUTERS = {
    "cross_connect": (lambda module=mpk: module.CrossConnect(4, 2, 3), maps),
    "cross_connect of vectors": (lambda module=mpk: module.CrossConnect(4, 2, 3), vectors),
    "mix": (lambda module=mpk: module.CrossStitch(inputs=2, outputs=3), maps),
    "mix by channel": (lambda module=mpk: module.CrossStitch(2, channels=4), maps),
    "combine": (conv, maps),
    "norms": (lambda module=mpk: conv(module, batch_norm=True), maps),
    "folded": (lambda module=mpk: conv(module, batch_norm=True).eval(), maps),
    "small vectors": (lambda module=mpk: module.CrossPredictLinear(4, 3, 2, 3), vectors),
    "large vectors": (
        lambda module=mpk: module.CrossPredictLinear(100, 100, 2, 2),
        lambda: vectors(channels=100),
    ),
}


class Ran:
    """Forward and backward of a model, with every gradient wanted and dense ones incoming."""

    def __init__(self, model, inputs):
        tensors = inputs if isinstance(inputs, list) else [inputs]
        leaves = [x.requires_grad_() for x in tensors]
        leaves += [p for p in model.parameters() if p.requires_grad]
        with profile(activities=[ProfilerActivity.CPU]) as record:
            outputs = model(inputs)
            ys = outputs if isinstance(outputs, tuple) else [outputs]
            dense = [torch.ones_like(y) for y in ys]
            torch.autograd.grad(ys, leaves, dense, allow_unused=True)
        # Each of the package's operators, in order, with the names of all that ran within it.
        self.operators = []
        events = sorted(record.events(), key=lambda event: event.time_range.start)
        self.names = [event.name for event in events]
        for event in events:
            above = event.cpu_parent
            while above is not None and not above.name.startswith("mpkernels::"):
                above = above.cpu_parent
            if above is None and event.name.startswith("mpkernels::"):
                within = [child.name for child in descendants(event)]
                self.operators.append((event.name.removeprefix("mpkernels::"), within))

    @property
    def order(self):
        return [name for name, _ in self.operators]

    def copies(self):
        return [within.count("aten::copy_") for _, within in self.operators]


def descendants(event):
    for child in event.cpu_children:
        yield child
        yield from descendants(child)


class Seen(TorchDispatchMode):
    """The package's operators that the dispatcher sees, with their maps and results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        if function.namespace == "mpkernels":
            self.calls.append((function.overloadpacket.__name__, args[0], results))
        return results


def operators(explanation):
    return [kernel.operator for kernel in explanation.kernels]


def halves(kernels):
    return kernels[: len(kernels) // 2], kernels[len(kernels) // 2 :]
