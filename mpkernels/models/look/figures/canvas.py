"""What all figures share: how they are saved, how pictures and gates are shown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...training.curves import pyplot, save
from ...training.files import write_text

WORDS = {"svg.fonttype": "none", "svg.hashsalt": "mpkernels"}


def keep(
    figure: Any, folder: Path, name: str, head: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes NAME.png, NAME.svg, and what they show as NAME.csv."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(head)
    for row in rows:
        table.writerow([f"{v:.6g}" if isinstance(v, (float, np.floating)) else v for v in row])
    write_text(folder / f"{name}.csv", text.getvalue())
    with pyplot().rc_context(WORDS):
        about = {"Date": None, "Creator": "mpkernels"}
        save(figure, folder / f"{name}.svg", metadata=about)
        save(figure, folder / f"{name}.png", dpi=150)


def blank(axes: Any) -> Any:
    """The axes without ticks and frame, for pictures and diagrams."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def picture(axes: Any, pixels: np.ndarray) -> None:
    """Shows bytes [3, S, S]."""
    blank(axes).imshow(pixels.transpose(1, 2, 0), interpolation="nearest")


def gate_name(router: int, i: int, j: int) -> str:
    """A gate as the paper writes it, all numbers from 1 on: g^2_21 as "g 2: 2→1"."""
    return f"g {router + 1}: {i + 1}→{j + 1}"
