"""Compares two results of the same suite: `python -m benchmarks.compare OLD.json NEW.json`.

This package is slower or faster in a row where the 20-80 % intervals are apart and the medians
differ by more than 5 %. The exit status is 1 if any row is slower, or was right and no longer is.
The contenders that are PyTorch's tell how far the machine or PyTorch itself has moved.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import Spread, apart

OURS = ("fused", "operator")
MARGIN = 1.05
KEY = ("axis", "case", "threads", "part")
Value = Spread | str


def verdict(old: Value, new: Value) -> str:
    """What became of one contender: same, slower, faster, wrong or failed; lower is better."""
    if isinstance(new, str):
        return "same" if isinstance(old, str) else new
    if isinstance(old, str):
        return "mended"
    if min(old["low"], new["low"]) <= 0:
        return "same"  # a difference of times that vanishes in the noise
    factor = new["median"] / old["median"]
    if not apart(old, new) or 1 / MARGIN <= factor <= MARGIN:
        return "same"
    return "slower" if factor > 1 else "faster"


def change(old: Value, new: Value) -> str:
    """Ratio new / old, with the least and the most that the spreads allow."""
    if isinstance(old, str) or isinstance(new, str):
        return ""
    low, high = new["low"] / old["high"], new["high"] / old["low"]
    return f"{new['median'] / old['median']:.2f} [{low:.2f}, {high:.2f}]"


def matched(
    old: dict[str, Any], new: dict[str, Any]
) -> dict[tuple[tuple[Any, ...], str], tuple[Value, Value]]:
    """The old and the new value by row and contender."""

    def values(result: dict[str, Any]) -> dict[tuple[tuple[Any, ...], str], Value]:
        return {
            (tuple(row.get(name) for name in KEY), contender): value
            for row in result["rows"]
            for contender, value in row["values"].items()
        }

    before, after = values(old), values(new)
    return {key: (before[key], after[key]) for key in before if key in after}


def main(arguments: list[str] | None = None) -> int:
    """Prints what changed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    paths = parser.parse_args(arguments)
    pairs = matched(json.loads(paths.old.read_text()), json.loads(paths.new.read_text()))
    ours = {key: pair for key, pair in pairs.items() if key[1] in OURS}
    if not ours:
        print("the files have no row in common")
        return 1
    verdicts = {key: verdict(*pair) for key, pair in ours.items()}
    for (row, contender), changed in verdicts.items():
        if changed != "same":
            name = ", ".join(str(part) for part in row if part is not None)
            print(f"{changed:7} {change(*ours[row, contender]):20} {contender}: {name}")
    count = {name: list(verdicts.values()).count(name) for name in dict.fromkeys(verdicts.values())}
    print(", ".join(f"{number} {name}" for name, number in count.items()))
    moved = [
        new["median"] / old["median"]
        for (_, contender), (old, new) in pairs.items()
        if contender not in OURS
        and isinstance(old, dict)
        and isinstance(new, dict)
        and old["median"] > 0
    ]
    if moved:
        print(f"PyTorch's own contenders: new / old {statistics.median(moved):.2f} at the median")
    return 1 if {"slower", "wrong", "failed"} & set(count) else 0


if __name__ == "__main__":
    sys.exit(main())
