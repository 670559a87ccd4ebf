"""What every suite shares: what a run measures, and the rows that it writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measure import spread

# What one part of a case took with one number of threads: by contender a spread in the row's
# unit, or why it has none.
Row = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """The command's arguments, as far as suites need them."""

    text: str = ""  # only cases whose name contains it
    rounds: int = 21
    threads: tuple[int, ...] = (1,)
    dtypes: tuple[str, ...] = ("fp32",)
    contenders: tuple[str, ...] | None = None  # None for all of them

    def only(self, names: tuple[str, ...]) -> list[str]:
        """Those of the contenders that the run measures."""
        return [name for name in names if self.contenders is None or name in self.contenders]


@contextmanager
def using(threads: int) -> Iterator[None]:
    """Sets the number of threads, until the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def head(case: Any, threads: int) -> Row:
    """What the rows of a case have in common: its name, its fields, and the threads."""
    return {"case": str(case), **case._asdict(), "threads": threads}


def row(head: Row, part: str, unit: str, values: dict[str, Any]) -> Row:
    """A row of a result file."""
    return {**head, "part": part, "unit": unit, "values": values}


def timed_rows(
    head: Row,
    parts: Iterable[str],
    names: Iterable[str],
    verdicts: dict[str, str],
    times: dict[tuple[str, str], list[float]],
) -> Iterator[Row]:
    """A row per part: spreads of microseconds, or the verdict of a contender that is not right.

    Args:
        head: what the rows have in common.
        parts: of the case, such as "forward".
        names: contenders, in the order of the row.
        verdicts: of contenders that were checked; only those that are "right" have times.
        times: microseconds of every round by (contender, part).
    """
    for part in parts:
        values: dict[str, Any] = {}
        for name in names:
            if verdicts.get(name, "right") != "right":
                values[name] = verdicts[name]
            elif (name, part) in times:
                values[name] = spread(times[name, part])
        yield row(head, part, "us", values)
