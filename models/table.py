"""Parameters of every network beside the paper's figures: `python -m models.table`.

train: trainable parameters; total: with batch norm's running statistics. error: of train. fit, for
train then total: = rounds to the printed figure, t truncates to it, . does neither. GFLOP: forward
for one image, two operations a multiplication with addition, convolutions and matrix products
alone. MiB: of parameters and statistics in float32.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models

from .paper.tables import ROWS, Printed


@dataclass(frozen=True)
class Line:
    """A network's row; None where there is nothing to say."""

    network: str
    name: str
    train: int | None
    total: int | None
    paper: str
    error: float | None
    fit: str
    gflop: float | None
    mib: float | None
    remark: str


def fits(count: int, millions: str) -> str:
    """The mark of a count beside a printed figure: "=", "t" or "."."""
    unit = 10 ** (6 - len(millions.partition(".")[2]))
    printed = int(millions.replace(".", ""))
    if (count + unit // 2) // unit == printed:
        return "="
    return "t" if count // unit == printed else "."


def _build(name: str, device: str) -> nn.Module:
    # The counter knows PyTorch's own operators; both kinds of routers have the same parameters.
    plain = {"routers": "eager"} if "routers" in models.options(name) else {}
    with torch.device(device):
        return models.create(name, **plain).eval()


def flop(name: str) -> int:
    """Floating-point operations of a forward pass of one image of the network's size.

    Networks whose way depends on the values cannot run without them: they run on the CPU.
    """
    shape = (1, models.options(name)["in_channels"], *[models.options(name).get("size", 32)] * 2)
    for device in ("meta", "cpu"):
        try:
            model, x = _build(name, device), torch.zeros(shape, device=device)
            with FlopCounterMode(display=False) as counter:
                model(x)
            break
        except (NotImplementedError, RuntimeError):
            if device == "cpu":
                raise
    return int(counter.get_total_flops())


def line(row: Printed) -> Line:
    """What is known of a network; of one that is not built only the paper's figure."""
    if row.name not in models.list():
        remark = "; ".join(filter(None, [row.remark, "not built"]))
        return Line(row.label, row.name, None, None, row.millions, None, "", None, None, remark)
    model = _build(row.name, "meta")
    train = sum(p.numel() for p in model.parameters() if p.requires_grad)
    held = [t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()]
    total = sum(t.numel() for t in held)
    error, fit = None, ""
    if row.millions:
        error = train / (1e6 * float(row.millions)) - 1
        fit = fits(train, row.millions) + fits(total, row.millions)
    size = sum(t.numel() * t.element_size() for t in held) / 2**20
    return Line(
        row.label, row.name, train, total, row.millions, error, fit, flop(row.name) / 1e9, size,
        row.remark,
    )  # fmt: skip


def lines(pattern: str = "*") -> list[Line]:
    """The paper's networks in its order, then all others; those whose name matches."""
    known = {row.name for row in ROWS}
    more = [Printed(0, name, name, "") for name in models.list() if name not in known]
    chosen = set(models.list(pattern))
    every = pattern == "*"
    return [line(row) for row in [*ROWS, *more] if every or row.name in chosen]


def _percent(error: float | None) -> str:
    text = "" if error is None else f"{error:+.1%}"
    return "0.0%" if text in ("+0.0%", "-0.0%") else text


def cells(found: Line) -> list[str]:
    """A row as text."""
    return [
        found.network,
        found.name,
        "" if found.train is None else f"{found.train:,}",
        "" if found.total is None else f"{found.total:,}",
        found.paper,
        _percent(found.error),
        found.fit,
        "" if found.gflop is None else f"{found.gflop:.3g}",
        "" if found.mib is None else f"{found.mib:.2f}",
        found.remark,
    ]


HEAD = ["network", "name", "train", "total", "paper (M)", "error", "fit", "GFLOP", "MiB", "remark"]


def as_text(found: list[Line]) -> str:
    """Aligned columns; numbers to the right."""
    rows = [HEAD, *map(cells, found)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    right = {2, 3, 4, 5, 7, 8}
    aligned = [
        [cell.rjust(width) if at in right else cell.ljust(width)
         for at, (cell, width) in enumerate(zip(row, widths))]
        for row in rows
    ]  # fmt: skip
    return "\n".join("  ".join(row).rstrip() for row in aligned)


def as_markdown(found: list[Line]) -> str:
    """A table."""
    rule = ["---:" if at in (2, 3, 4, 5, 7, 8) else "---" for at in range(len(HEAD))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [HEAD, rule, *map(cells, found)])


def as_json(found: list[Line]) -> str:
    """A list of objects, a network each."""
    return json.dumps([asdict(one) for one in found], indent=1)


FORMATS = {"text": as_text, "markdown": as_markdown, "json": as_json}


def main(arguments: list[str] | None = None) -> int:
    """Prints the table and returns the exit status."""
    made = argparse.ArgumentParser(
        prog="python -m models.table", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("pattern", nargs="?", default="*", help='of names, such as "*_cc"')
    made.add_argument("--format", choices=list(FORMATS), default="text")
    given = made.parse_args(arguments)
    found = lines(given.pattern)
    if not found:
        made.error(f"no network matches {given.pattern!r}")
    print(FORMATS[given.format](found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
