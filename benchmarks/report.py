"""Results as Markdown: `python -m benchmarks.report` prints the table, `--readme` puts it there."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.routers import RESULTS
from models.checkpoint import write_whole

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
BASELINES = ("loops", "stacked", "compile")


def ratio(row: dict[str, Any], name: str, part: str) -> str:
    """Median of a baseline over that of fused; bold where the 20-80 % intervals do not overlap."""
    if name not in row or "fused" not in row:
        return "wrong"
    (low, middle, high), (fused_low, fused, fused_high) = row[name][part], row["fused"][part]
    text = f"{middle / fused:.1f}"
    return f"**{text}**" if low > fused_high or high < fused_low else text


def table(result: dict[str, Any]) -> str:
    """The ratios of one result file."""
    lines = [
        "Baseline / fused, ratio of medians (bold: the 20-80 % intervals are apart), batch "
        f"{result['batch']}, {result['dtype']}, {result['processor']} "
        f"({result['instruction_set']}), torch {result['torch']}, commit {result['commit']}, "
        f"`{result['command'].strip()}`:",
        "",
        "| router of basecnn_2_cc | threads | layout | loops fwd, fwd+bwd | stacked "
        "| torch.compile | fused (us) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        layout = "channels_last" if row["channels_last"] else "NCHW"
        cells = [f"{ratio(row, name, 'forward')}, {ratio(row, name, 'both')}" for name in BASELINES]
        times = row.get("fused")
        fused = ", ".join(f"{times[p][1]:.0f}" for p in ("forward", "both")) if times else "wrong"
        lines.append(
            f"| {row['router']} | {row['threads']} | {layout} | {' | '.join(cells)} | {fused} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Prints the table or puts it between the README's markers."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    made.add_argument("--results", type=Path, default=RESULTS / "cpu_routers.json")
    made.add_argument("--readme", action="store_true")
    given = made.parse_args()
    text = table(json.loads(given.results.read_text()))
    if not given.readme:
        print(text)
        return 0
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n{text}\n{END}{after}"
    write_whole(README, lambda to: to.write_text(new))
    return 0


if __name__ == "__main__":
    sys.exit(main())
