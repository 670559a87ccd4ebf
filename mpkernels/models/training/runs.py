"""A run's folder: what was trained, how, on which machine, and with which result.

It holds recipe.toml, environment.json, metrics.jsonl (a line per epoch), curves.png,
checkpoint.json with its tensors, the same in best/ of the epoch with the best test accuracy, and
the events of TensorBoard if asked for. One training at a time writes into it.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from ..environment import environment
from . import checkpoint
from .files import as_json, sweep, write_json, write_text
from .locks import locked
from .parallel import ALONE, Processes
from .recipe import Recipe

BEST = "best"


class Run:
    """The folder of a run, locked while the context is entered; the first process writes to it.

    All processes must call each method. What fails in the first one is raised in all.

    Args:
        folder: path of the folder; None writes nothing.
        processes: the processes that train together.
        tensorboard: whether to write TensorBoard events too.

    Raises:
        ValueError: `tensorboard` is true and TensorBoard is not installed.
    """

    def __init__(
        self, folder: Path | None, processes: Processes = ALONE, tensorboard: bool = False
    ) -> None:
        self.folder, self.processes = folder, processes
        self.id = secrets.token_hex(8)
        self.events: Any = None
        self.writer: Any = None
        self.open = ExitStack()
        if tensorboard and folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError("tensorboard is not installed: pip install tensorboard") from error
            self.writer = SummaryWriter

    def _first(self, write: Callable[[Path], object]) -> None:
        """Lets the first process write to the folder; its error is raised in all."""
        error: Exception | None = None
        if self.folder is not None and self.processes.rank == 0:
            try:
                write(self.folder)
            except (OSError, ValueError, FloatingPointError) as caught:
                error = caught
        if self.folder is not None and (error := self.processes.gather(error)[0]) is not None:
            raise error

    def __enter__(self) -> Run:
        """Locks the folder and removes what killed saves have left.

        Raises:
            BlockingIOError: another training is in it.
        """

        def enter(folder: Path) -> None:
            self.open.enter_context(locked(folder))
            for part in ("", BEST):
                sweep(folder / part)

        self._first(enter)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Unlocks the folder."""
        self.open.close()

    def begin(self, recipe: Recipe, device: str, state: dict[str, Any] | None) -> None:
        """Begins the run, or goes on with that of a checkpoint's `state`."""
        if state is not None:
            self.id = state["run"]

        def write(folder: Path) -> None:
            write_text(folder / "recipe.toml", recipe.as_toml())
            if state is None:
                text = {"run": self.id, **environment(device)}
                write_json(folder / "environment.json", text, indent=1)
            for part in ("", BEST):
                checkpoint.tidy(folder / part)
            if self.writer:
                self.events = self.writer(str(folder))

        self._first(write)

    def note(self, metrics: list[dict[str, float]]) -> None:
        """Writes the metrics of all epochs."""

        def write(folder: Path) -> None:
            lines = "".join(f"{as_json(line)}\n" for line in metrics)
            write_text(folder / "metrics.jsonl", lines)
            if self.events is not None and metrics:
                for name, value in metrics[-1].items():
                    self.events.add_scalar(name, value, metrics[-1]["epoch"])
                self.events.flush()

        self._first(write)

    def save(self, state: dict[str, Any], part: str = "") -> None:
        """Makes `state` the checkpoint of the folder, or of a part of it."""
        self._first(lambda folder: checkpoint.save(folder / part, {"run": self.id, **state}))

    def draw(self, title: str, metrics: list[dict[str, float]]) -> None:
        """Draws the curves if matplotlib is installed."""

        def write(folder: Path) -> None:
            try:
                from .curves import plot

                plot(folder / "curves.png", title, metrics)
            except ImportError:
                print("matplotlib is not installed: curves.png is not drawn", file=sys.stderr)

        if metrics:
            self._first(write)
