"""The ways that a call can take to its kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mpkernels.ops import nodes
from mpkernels.ops.operator import OPERATORS


@contextmanager
def python_alone() -> Iterator[None]:
    """Within it no call takes the way that was compiled against this torch."""
    callers = {operator: operator._in_cpp for operator in OPERATORS.values()}
    try:
        for operator in callers:
            operator._in_cpp = nodes.never
        yield
    finally:
        for operator, caller in callers.items():
            operator._in_cpp = caller
