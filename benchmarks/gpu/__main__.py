"""Everything that needs a GPU, in one go of under nine minutes: `python -m benchmarks.gpu`.

Steps run in the order of their worth. Each case is a row in rows.jsonl as soon as it is known, and
page.md is written again after each step. `--failed` keeps the rows of another run that are done and
whose sources and versions are these, and measures the others.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu import page, rows
from benchmarks.gpu.plan import FIRST, STEPS, Step
from benchmarks.gpu.workers import Pool

WORKER = [sys.executable, "-m", "benchmarks.gpu.worker"]
LEAST_SECONDS = 10.0  # for less no step starts
SHOWN = 30  # failures that are printed; failures.log has all


def arguments() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    names = [step.name for step in (*FIRST, *STEPS)]
    made.add_argument("--only", nargs="+", choices=names, metavar="STEP", help=", ".join(names))
    made.add_argument("--filter", default="", help="only cases whose name has this text")
    made.add_argument("--seconds", type=float, default=480, help="of the whole command")
    made.add_argument("--failed", type=Path, metavar="ROWS", help="a rows.jsonl to go on from")
    made.add_argument("--commit", help="of these sources, where there is no git to ask")
    made.add_argument("--out", type=Path, default=Path("gpu_report"), help="folder of the report")
    return made


def versions() -> rows.Row:
    """Those that a row depends on, without importing what they are of."""
    found = {}
    for name in rows.VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str:
    """The checkout's commit, where there is git; whether sources are those is the hash's to say."""
    try:
        asked = ["git", "rev-parse", "--short", "HEAD"]
        said = subprocess.run(asked, cwd=rows.ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return said.stdout.strip() or "unknown"


class Report:
    """The folder of a run: rows.jsonl, page.md and failures.log."""

    def __init__(self, folder: Path, kept: list[rows.Row], commit: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path, self.commit = folder, folder / "rows.jsonl", commit
        if self.path.exists():  # measured before: added to what is kept aside
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
        made = {"step": step.name, "card": self.card, **row, **self.versions}
        if step in FIRST:
            made["commit"] = self.commit
        rows.append(self.path, made | {"sources": self.sources[step.name]})
        if row["state"] not in ("done", "not reached"):
            with (self.folder / "failures.log").open("a") as file:
                file.write(f"== {step.name}: {row['case']}: {row['state']}\n{trace or row}\n")
            self.failures += 1
            if self.failures <= SHOWN:
                why = " ".join(str(row.get("why", row.get("wrong", ""))).split())[:200]
                print(f"  {row['case']}: {row['state']}: {why}", flush=True)

    def write_page(self) -> list[rows.Row]:
        """page.md from all rows so far, which it returns."""
        found = rows.read(self.path)
        (self.folder / "page.md").write_text(page.page(found))
        return found


def run(report: Report, steps: list[Step], text: str, end: float, worker: list[str]) -> bool:
    """Runs the steps' cases that have the text and that the report lacks; True if all are done."""
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
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        print(f"{step.name}: {told or 'nothing'} in {time.monotonic() - begun:.1f} s", flush=True)
        report.write_page()
    return good


def main(given: list[str] | None = None, worker: list[str] = WORKER) -> int:
    """Exit status 0 if every case was reached and right."""
    begun = time.monotonic()
    asked = arguments().parse_args(given)
    before = rows.read(asked.failed) if asked.failed else []
    kept = [
        row
        for step in STEPS
        for row in rows.of_step(before, step.name)
        if rows.is_settled(row, step, versions())
    ]
    report = Report(asked.out, kept, asked.commit or commit())
    steps = [step for step in STEPS if not asked.only or step.name in asked.only]
    end = begun + asked.seconds
    if run(report, FIRST, "", end, worker):  # every row names the card
        run(report, steps, asked.filter, end, worker)
    found = report.write_page()
    print(page.verdict(found))
    return 0 if all(row["state"] == "done" for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
