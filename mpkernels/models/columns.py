"""Plain text in columns as wide as what they hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Lines of cells, two spaces apart; the columns numbered in `right` end together."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    aligned = [
        [cell.rjust(width) if at in right else cell.ljust(width)
         for at, (cell, width) in enumerate(zip(row, widths))]
        for row in rows
    ]  # fmt: skip
    return "\n".join("  ".join(row).rstrip() for row in aligned)
