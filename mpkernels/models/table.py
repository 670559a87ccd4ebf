"""Parameters of every network beside the paper's figures.

train   trainable parameters
total   the same with the running statistics of batch norm
error   of train, relative to the paper's figure
fit     of train, then of total: = rounds to the paper's figure, t truncates to it, . does neither
GFLOP   forward pass for one image; convolutions and matrix products alone, two operations per
        multiplication and addition
MiB     parameters and statistics in float32
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .cli import parser_for, run
from .columns import columns
from .networks import registry
from .paper.tables import ROWS, Printed


@dataclass(frozen=True)
class Line:
    """A row of the table; None where a figure does not exist."""

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
    """How a count fits a printed figure: "=" rounds to it, "t" truncates to it, "." neither."""
    unit = 10 ** (6 - len(millions.partition(".")[2]))
    printed = int(millions.replace(".", ""))
    if (count + unit // 2) // unit == printed:
        return "="
    return "t" if count // unit == printed else "."


def _build(name: str, device: str) -> nn.Module:
    with torch.device(device):
        return registry.build(name).eval()


def flop(name: str) -> int:
    """Floating-point operations of a forward pass of one image of the network's size.

    Networks whose computation depends on values cannot run on meta tensors; they run on the CPU.
    """
    known = registry.options(name)
    shape = (1, known["in_channels"], *[known.get("size", 32)] * 2)
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
    """The row of a network; of one that is not built it has the paper's figure alone."""
    if row.name not in registry.list_models():
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
    """Rows of the networks whose name matches: the paper's in its order, then all others."""
    known = {row.name for row in ROWS}
    more = [Printed(0, name, name, "") for name in registry.list_models() if name not in known]
    chosen = set(registry.list_models(pattern))
    every = pattern == "*"
    return [line(row) for row in [*ROWS, *more] if every or row.name in chosen]


def _percent(error: float | None) -> str:
    text = "" if error is None else f"{error:+.1%}"
    return "0.0%" if text in ("+0.0%", "-0.0%") else text


def cells(row: Line) -> list[str]:
    """The cells of a row as text."""
    return [
        row.network,
        row.name,
        "" if row.train is None else f"{row.train:,}",
        "" if row.total is None else f"{row.total:,}",
        row.paper,
        _percent(row.error),
        row.fit,
        "" if row.gflop is None else f"{row.gflop:.3g}",
        "" if row.mib is None else f"{row.mib:.2f}",
        row.remark,
    ]


HEAD = ["network", "name", "train", "total", "paper (M)", "error", "fit", "GFLOP", "MiB", "remark"]
NUMBERS = {2, 3, 4, 5, 7, 8}  # columns aligned to the right


def as_text(table: list[Line]) -> str:
    """Plain text with aligned columns."""
    return columns([HEAD, *map(cells, table)], NUMBERS)


def as_markdown(table: list[Line]) -> str:
    """A Markdown table."""
    rule = ["---:" if at in NUMBERS else "---" for at in range(len(HEAD))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [HEAD, rule, *map(cells, table)])


def as_json(table: list[Line]) -> str:
    """A JSON list with an object per network."""
    return json.dumps([asdict(row) for row in table], indent=1)


FORMATS = {"text": as_text, "markdown": as_markdown, "json": as_json}


def command_line() -> argparse.ArgumentParser:
    """The command line."""
    parser = parser_for("table", __doc__, "'*_cc' --format markdown")
    parser.add_argument("pattern", nargs="?", default="*", help="of names")
    parser.add_argument("--format", choices=list(FORMATS), default="text", help="of the table")
    return parser


def show(options: argparse.Namespace) -> None:
    """Prints the table.

    Raises:
        ValueError: no network matches the pattern.
    """
    table = lines(options.pattern)
    if not table:
        raise ValueError(f"no network matches {options.pattern!r}")
    print(FORMATS[options.format](table))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status, see `models.cli.run`."""
    return run(command_line(), arguments, show)


if __name__ == "__main__":
    sys.exit(main())
