"""Timing: contenders take turns, round by round, in one process.

A machine that slows down then slows all of them alike, so the quotient of two medians stays. Every
other round runs in reverse order, so no contender always follows the same other one.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

Step = Callable[[], object]
Spread = dict[str, float]
WARM_UP = 3


class Clock(Protocol):
    """Times turns. A turn must last at least `shortest` microseconds."""

    shortest: float

    def turn(self, step: Step, calls: int) -> Callable[[], float]:
        """Calls the step that often; returns a function that tells the microseconds per call."""

    def settle(self) -> None:
        """Waits until the time of every turn so far is known."""


class WallClock:
    """For work that is done when the call returns."""

    shortest = 1000.0  # a thousand ticks of the clock or more

    def turn(self, step: Step, calls: int) -> Callable[[], float]:
        """The turn's time, divided by its calls."""
        begin = time.perf_counter()
        for _ in range(calls):
            step()
        taken = 1e6 * (time.perf_counter() - begin) / calls
        return lambda: taken

    def settle(self) -> None:
        """Does nothing: no work is under way."""


class CudaClock:
    """CUDA events before and after the calls of a turn."""

    shortest = 500.0

    def turn(self, step: Step, calls: int) -> Callable[[], float]:
        """The time between the events, known once both have passed."""
        start: Any
        end: Any
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            step()
        end.record()
        return lambda: float(1e3 * start.elapsed_time(end) / calls)

    def settle(self) -> None:
        """Waits for the device."""
        torch.cuda.synchronize()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps Python's garbage collector from interrupting a turn."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _calls(step: Step, clock: Clock) -> int:
    """How many calls fill a turn."""
    microseconds = clock.turn(step, 1)
    clock.settle()
    return max(1, math.ceil(clock.shortest / max(microseconds(), 0.1)))


def contest(
    steps: dict[Any, Step], rounds: int, clock: Clock | None = None
) -> dict[Any, list[float]]:
    """Microseconds per call: of each contender a list with one figure per round."""
    clock = clock or WallClock()
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    calls = {name: _calls(step, clock) for name, step in steps.items()}
    times: dict[Any, list[float]] = {name: [] for name in steps}
    with _no_collection():
        for at in range(rounds):
            order = list(steps)[:: -1 if at % 2 else 1]
            microseconds = {name: clock.turn(steps[name], calls[name]) for name in order}
            clock.settle()
            for name in order:
                times[name].append(microseconds[name]())
    return times


def spread(values: list[float]) -> Spread:
    """Median, 20th and 80th percentile."""
    low, *_, high = statistics.quantiles(values, n=5, method="inclusive")
    return {
        "low": round(low, 2),
        "median": round(statistics.median(values), 2),
        "high": round(high, 2),
    }


def apart(one: Spread, other: Spread) -> bool:
    """Whether the intervals from the 20th to the 80th percentile do not overlap."""
    return one["low"] > other["high"] or one["high"] < other["low"]
