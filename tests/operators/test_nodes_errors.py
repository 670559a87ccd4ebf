"""Errors and interrupts of Python that go through nodes in C++ reach the caller as they are."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mpkernels as mpk
from mpkernels import functional
from mpkernels.ops import below, nodes, switch
from mpkernels.ops.operator import OPERATORS
from mpkernels.ops.switch import active_backend

pytestmark = pytest.mark.skipif(nodes.why_none is not None, reason=f"no nodes: {nodes.why_none}")


class Raises(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if "mix_backward" in str(function):
            raise KeyError("mine")
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("forced", [False, True])
def test_an_error_of_python_in_a_backward(forced):
    x = torch.randn(2, 4, 3, requires_grad=True)
    for _ in range(3):
        y = functional.mix([x], torch.ones(2, 1, 1))[0].sum()
        context = mpk.use_backend("eager") if forced else nullcontext()
        with context, Raises(), pytest.raises(KeyError, match="mine"):
            y.backward()
    functional.mix([x], torch.ones(2, 1, 1))[0].sum().backward()
    assert active_backend() == "auto"


@pytest.mark.parametrize("when", ["__enter__", "__exit__"])
def test_an_interrupt_around_a_backward_that_is_forced(when, monkeypatch):
    """Ctrl-C while Python enters or leaves the backend of the forward reaches the caller."""

    class Interrupted:
        def __enter__(self):
            if when == "__enter__":
                raise KeyboardInterrupt

        def __exit__(self, *error):
            raise KeyboardInterrupt

    x = torch.randn(2, 4, 3, requires_grad=True)
    y = functional.mix([x], torch.ones(2, 1, 1))[0].sum()
    nodes._module.ask(lambda name: Interrupted(), below.raise_as_it_was)
    try:
        with mpk.use_backend("eager"), pytest.raises(KeyboardInterrupt):
            y.backward()
    finally:
        nodes._module.ask(switch.thread_runs, below.raise_as_it_was)


def test_a_number_that_no_integer_of_c_holds():
    x, w = torch.randn(2, 3), torch.rand(1, 2, 3)
    assert OPERATORS["gate"]._in_cpp([x], (w, None, w, None), 2**70) is None
    assert OPERATORS["mix"]._in_cpp([x], torch.rand(2, 1, 2)) is not None
