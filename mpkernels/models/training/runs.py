"""A run's folder: what was trained, how, on which machine, and with which result.

It holds recipe.toml, environment.json, metrics.jsonl (a line per epoch), curves.png,
checkpoint.json with its tensors, and the events of TensorBoard if asked for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ..environment import environment
from . import checkpoint
from .files import write_lines, write_text
from .recipe import Recipe


class Run:
    """The folder of a run; only the first process writes to it.

    Args:
        folder: path of the folder; None writes nothing.
        first: whether this is the first process.
        tensorboard: whether to write TensorBoard events too.

    Raises:
        ValueError: `tensorboard` is true and TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, first: bool = True, tensorboard: bool = False) -> None:
        self.folder = folder if first else None
        self.events: Any = None
        if not tensorboard or self.folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("tensorboard is not installed: pip install tensorboard") from error
        self.events = SummaryWriter(str(self.folder))  # type: ignore[no-untyped-call]

    def begin(self, recipe: Recipe, device: str) -> None:
        """Writes how the network is trained."""
        if self.folder is not None:
            write_text(self.folder / "recipe.toml", recipe.as_toml())
            text = json.dumps(environment(device), indent=1)
            write_text(self.folder / "environment.json", text)

    def note(self, metrics: list[dict[str, float]]) -> None:
        """Writes the metrics of all epochs."""
        if self.folder is not None:
            write_lines(self.folder / "metrics.jsonl", metrics)
        if self.events is not None and metrics:
            for name, value in metrics[-1].items():
                self.events.add_scalar(name, value, metrics[-1]["epoch"])
            self.events.flush()

    def save(self, state: dict[str, Any]) -> None:
        """Makes `state` the checkpoint."""
        if self.folder is not None:
            checkpoint.save(self.folder, state)

    def draw(self, title: str, metrics: list[dict[str, float]]) -> None:
        """Draws the curves if matplotlib is installed."""
        if self.folder is None or not metrics:
            return
        try:
            from .curves import plot

            plot(self.folder / "curves.png", title, metrics)
        except ImportError:
            print("matplotlib is not installed: curves.png is not drawn", file=sys.stderr)
