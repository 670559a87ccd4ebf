"""Everything that needs a GPU, in one run of under nine minutes: `python -m benchmarks.gpu`.

The most valuable steps run first. Each case is a row in rows.jsonl as soon as it is known, and
page.md is written again after each step. `--failed` keeps the rows of another run that are done,
with these sources and versions, and measures the others.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.gpu import page, rows
from benchmarks.gpu.plan import FIRST, STEPS, Step
from benchmarks.gpu.workers import Pool

WORKER = [sys.executable, "-m", "benchmarks.gpu.worker"]
LEAST_SECONDS = 10.0  # a step does not start with less left
SHOWN = 30  # failures to print; failures.log has them all


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    names = [step.name for step in (*FIRST, *STEPS)]
    parser.add_argument("--only", nargs="+", choices=names, metavar="STEP", help=", ".join(names))
    parser.add_argument("--filter", default="", help="only cases whose name has this text")
    parser.add_argument("--seconds", type=float, default=480, help="limit of all, default 480")
    parser.add_argument("--failed", type=Path, metavar="ROWS", help="the rows.jsonl to resume from")
    parser.add_argument("--commit", help="of these sources, where git cannot tell")
    parser.add_argument("--out", type=Path, default=Path("gpu_report"), help="folder of the report")
    return parser


def versions() -> rows.Row:
    """The versions that a row depends on, read without importing the packages."""
    installed: rows.Row = {}
    for name in rows.VERSIONS:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    return installed


class Report:
    """The folder of a run: rows.jsonl, page.md and failures.log."""

    def __init__(self, folder: Path, kept: list[rows.Row], commit: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path, self.commit = folder, folder / "rows.jsonl", commit
        if self.path.exists():  # of an earlier run: moved aside
            with self.path.with_suffix(".before.jsonl").open("a") as file:
                file.write(self.path.read_text())
            self.path.unlink()
        for row in kept:
            rows.append(self.path, row)
        self.versions, self.card, self.failures = versions(), None, 0
        self.sources = {step.name: rows.source_hash(step) for step in (*FIRST, *STEPS)}

    def add(self, step: Step, row: rows.Row) -> None:
        """Writes a row, and the traceback of what failed."""
        trace = row.pop("traceback", None)
        self.card = row.get("card", self.card)
        whole = {"step": step.name, "card": self.card, **row, **self.versions}
        if step in FIRST:
            whole["commit"] = self.commit
        rows.append(self.path, whole | {"sources": self.sources[step.name]})
        if row["state"] not in ("done", "not reached"):
            with (self.folder / "failures.log").open("a") as file:
                file.write(f"== {step.name}: {row['case']}: {row['state']}\n{trace or row}\n")
            self.failures += 1
            if self.failures <= SHOWN:
                why = " ".join(str(row.get("why", row.get("wrong", ""))).split())[:200]
                print(f"  {row['case']}: {row['state']}: {why}", flush=True)

    def write_page(self) -> list[rows.Row]:
        """Writes page.md from all rows so far; returns them."""
        so_far = rows.read(self.path)
        (self.folder / "page.md").write_text(page.page(so_far))
        return so_far


def run(report: Report, steps: list[Step], text: str, end: float, worker: list[str]) -> bool:
    """Runs the cases that contain the text and that the report lacks; True if all are done."""
    good = True
    for step in steps:
        settled = {row["case"] for row in rows.of_step(rows.read(report.path), step.name)}
        cases = [case for case in step.module().cases() if text in case and case not in settled]
        begun = time.monotonic()
        deadline = min(begun + step.seconds, end)
        if end - begun < LEAST_SECONDS:
            deadline = begun
        pool = Pool(
            [*worker, step.name], step.environment, step.workers, step.case_seconds, deadline
        )
        print(f"{step.name}: {len(cases)} cases ...", flush=True)
        counts = dict.fromkeys(rows.STATES, 0)
        for row in pool.run(cases):
            counts[row["state"]] += 1
            good &= row["state"] == "done"
            report.add(step, row)
        states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        print(f"{step.name}: {states or 'nothing'} in {time.monotonic() - begun:.1f} s", flush=True)
        report.write_page()
    return good


def main(words: list[str] | None = None, worker: list[str] = WORKER) -> int:
    """Returns the exit status: 0 if every case was reached and right."""
    begun = time.monotonic()
    options = arguments().parse_args(words)
    before = rows.read(options.failed) if options.failed else []
    kept = [
        row
        for step in STEPS
        for row in rows.of_step(before, step.name)
        if rows.is_settled(row, step, versions())
    ]
    report = Report(options.out, kept, options.commit or machine.commit())
    steps = [step for step in STEPS if not options.only or step.name in options.only]
    end = begun + options.seconds
    if run(report, FIRST, "", end, worker):  # every row names the card
        run(report, steps, options.filter, end, worker)
    every = report.write_page()
    print(page.verdict(every))
    return 0 if all(row["state"] == "done" for row in every) else 1


if __name__ == "__main__":
    sys.exit(main())
