"""Training steps of cross-predicted networks: eager and fused routers.

As the suite of steps; the routers hold convolutions here, which both kinds share.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cpu import steps
from benchmarks.cpu.steps import PLAIN as CONTENDERS
from benchmarks.cpu.steps import Case
from benchmarks.cpu.suite import Choice, Row

__all__ = ["CONTENDERS", "rows"]
CASES = [Case("basecnn_2_cp", 128), Case("resnet20_2_cp", 64)]


def rows(choice: Choice) -> Iterator[Row]:
    """Of each case and number of threads the step, and its routers alone."""
    return steps.rows(choice, CASES)
