"""Everything that needs a GPU, in one go of under nine minutes: `python -m benchmarks.gpu`.

Parts run in order and are saved one by one, so a second run goes on where the first stopped, unless
the commit, the card or a version is another; what was wrong runs again.
Without a GPU the proof that needs none runs instead, and every part says that it was not measured.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_kernels, gpu_proof, gpu_report, gpu_steps
from models.checkpoint import write_whole

RESULTS = Path(__file__).parent / "results"
VERSIONS = ("commit", "card", "driver", "torch", "cuda", "triton", "python")
Part = Callable[[dict[str, Any]], dict[str, Any]]

# Each takes the report so far and returns its own section.
PARTS: dict[str, Part] = {
    "environment": gpu_proof.environment,
    "correctness": gpu_proof.correctness,
    "sanitizer": gpu_proof.sanitizer,
    "copy": gpu_kernels.copy_bandwidth,
    "kernels": gpu_kernels.kernels,
    "launches": gpu_kernels.launches,
    "steps": gpu_steps.steps,
    "compiled": gpu_kernels.compiled,
}


def _arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    made.add_argument("--only", nargs="+", choices=list(PARTS), help="run these parts alone")
    made.add_argument("--again", nargs="+", default=[], choices=[*PARTS, "all"],
                      help="run these parts although the report has them")  # fmt: skip
    made.add_argument(
        "--budget", type=float, default=520, help="seconds after which no part starts"
    )
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the report")
    return made


def run_parts(
    report: dict[str, Any], parts: dict[str, Part], budget: float, save: Callable[[], None]
) -> bool:
    """Adds what is missing to the report, saves after each part; True if all of it is good."""
    start = time.monotonic()
    for name, part in parts.items():
        if time.monotonic() - start > budget:
            report[name] = {"state": "not reached", "why": f"{budget:.0f} s were over"}
            continue
        begun = time.monotonic()
        print(f"{name} ...", flush=True)
        try:
            report[name] = {"state": "done", **part(report)}
        except Exception as error:  # noqa: BLE001  (a broken part must not cost the others)
            text = re.sub(r"(/[\w.+-]+){2,}/", "", f"{type(error).__name__}: {error}")
            report[name] = {"state": "failed", "why": text[:2000]}
        report[name]["seconds"] = round(time.monotonic() - begun, 1)
        print(f"{name}: {report[name]['state']} in {report[name]['seconds']} s", flush=True)
        save()
    return all(
        section["state"] == "not measured" or is_done(section) for section in report.values()
    )


def is_done(section: dict[str, Any]) -> bool:
    """Whether a part ran to its end, with right results."""
    return section.get("state") == "done" and bool(section.get("right", True))


def still_true(report: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """The saved report, or nothing if it is of another commit, card or version."""
    saved = report.get("environment", {})
    for name in VERSIONS:
        if saved and saved.get(name) != here.get(name):
            print(f"{name} is {here.get(name)}, was {saved.get(name)}: every part runs again")
            return {}
    return report


def chosen(report: dict[str, Any], only: list[str] | None, again: list[str]) -> dict[str, Part]:
    """The parts to run: those asked for that the report does not have yet."""
    asked = {name: part for name, part in PARTS.items() if not only or name in only}
    return {
        name: part
        for name, part in asked.items()
        if not is_done(report.get(name, {})) or name in again or "all" in again
    }


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if every part ran and every result was right."""
    given = _arguments().parse_args(arguments)
    gpu = torch.cuda.is_available()
    card = re.sub(r"\W+", "_", torch.cuda.get_device_name()).lower() if gpu else "none"
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"gpu_{card}.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def save() -> None:
        write_whole(path, lambda to: to.write_text(json.dumps(report, indent=1) + "\n"))
        page = gpu_report.page(report)
        write_whole(path.with_suffix(".md"), lambda to: to.write_text(page))

    if gpu:
        report = still_true(report, gpu_proof.environment({}))
        parts = chosen(report, given.only, given.again)
    else:
        print("torch finds no GPU: the proof that needs none runs, GPU figures are not measured")
        parts = {"environment": gpu_proof.environment, "proof": gpu_proof.without_gpu}
        missing = [name for name in PARTS if name not in parts]
        report |= {name: {"state": "not measured", "why": "no GPU"} for name in missing}
    good = run_parts(report, parts, given.budget, save)
    save()
    print(f"report: {path.with_suffix('.md').name}")
    return 0 if good else 1


def commit() -> str:
    """The checkout's commit, and whether it was changed since, results left out."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", ":/", ":!/benchmarks/results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if changed else "")


if __name__ == "__main__":
    sys.exit(main())
