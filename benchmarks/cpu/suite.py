"""What a run of the CPU suites measures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

# What is measured of one case with one number of threads: by contender a spread in the row's
# unit, or why it has none.
Row = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """The command's arguments, as far as suites need them."""

    text: str = ""  # cases whose name has it
    rounds: int = 21
    threads: tuple[int, ...] = (1,)
    dtypes: tuple[str, ...] = ("fp32",)
    contenders: tuple[str, ...] | None = None  # all of them

    def only(self, names: tuple[str, ...]) -> list[str]:
        """Those of the contenders that were asked for."""
        return [name for name in names if self.contenders is None or name in self.contenders]


@contextmanager
def using(threads: int) -> Iterator[None]:
    """So many threads within."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
