"""Measures on this machine's CPU and writes a JSON file per suite: `python -m benchmarks`.

Suites are plain functions on `benchmarks.measure`, not tests with pytest-benchmark's fixture: that
runs one contender to its end before the next one starts, so a machine that slows down in between
moves their ratio. Contenders must take turns within each round.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.cases import DTYPES
from benchmarks.cpu import combine, layers, memory, overhead, profile, routers, scaling, steps
from benchmarks.cpu.suite import Choice, Row
from benchmarks.report import RESULTS
from models.training.files import write_whole

SUITES = {
    "routers": routers,
    "combine": combine,
    "layers": layers,
    "overhead": overhead,
    "steps": steps,
    "profile": profile,
    "memory": memory,
    "scaling": scaling,
}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    contenders = list(dict.fromkeys(n for suite in SUITES.values() for n in suite.CONTENDERS))
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0]
    )

    def some(flag: str, names: list[str], default: list[str] | None, text: str) -> None:
        parser.add_argument(
            flag, nargs="+", metavar="NAME", choices=names, default=default,
            help=f"{text} {', '.join(names)}",
        )  # fmt: skip

    some("--suite", list(SUITES), list(SUITES), "default all:")
    some("--contenders", contenders, None, "default all:")
    some("--dtype", list(DTYPES), ["fp32"], "of the networks' routers:")
    parser.add_argument(
        "--filter", default="", metavar="TEXT",
        help='cases whose name contains the text; "bars": those that the README sums up',
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=21, help="at least 2, default %(default)s")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=sorted({1, cores}), help="default one and all"
    )
    parser.add_argument(
        "--out", type=Path,
        help="folder of the JSON files; without it, a run of some cases or contenders only prints",
    )  # fmt: skip
    return parser


def line(row: Row) -> str:
    """A row as one line for the terminal."""
    values = ", ".join(
        f"{name} {value if isinstance(value, str) else format(value['median'], '.4g')}"
        for name, value in row["values"].items()
    )
    axis = f"{row['axis']}: " if "axis" in row else ""
    return f"{axis}{row['case']}, {row['threads']} threads, {row['part']} ({row['unit']}): {values}"


def as_text(result: dict[str, Any]) -> str:
    """JSON with one line per row."""
    head = json.dumps({name: value for name, value in result.items() if name != "rows"}, indent=1)
    rows = ",\n  ".join(json.dumps(row) for row in result["rows"])
    return f'{head[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n'


def main(words: list[str] | None = None) -> int:
    """Runs the suites, one after the other."""
    parser = arguments()
    options = parser.parse_args(words)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: a spread needs two values")
    full = not options.filter and options.contenders is None
    out = options.out or (RESULTS if full else None)
    choice = Choice(
        options.filter, options.rounds, tuple(dict.fromkeys(options.threads)),
        tuple(options.dtype), tuple(options.contenders) if options.contenders else None,
    )  # fmt: skip
    start = machine.load()
    if start > machine.IDLE:
        print(f"warning: the machine is not idle (load {start}): times will be off", flush=True)
    for name in options.suite:
        load = {"at_start": start, "before_suite": machine.load()}
        result: dict[str, Any] = {
            "suite": name, **machine.describe(), "rounds": options.rounds, "load": load, "rows": []
        }  # fmt: skip
        for row in SUITES[name].rows(choice):
            result["rows"].append(row)
            print(line(row), flush=True)
        if out is not None and result["rows"]:
            path = out / f"cpu_{name}.json"
            write_whole(path, lambda to: to.write_text(as_text(result)))
            print(f"wrote {path.name}", flush=True)
    return 0


if __name__ == "__main__":
    machine.with_allocator()
    sys.exit(main())
