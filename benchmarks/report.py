"""Writes results as Markdown and pictures: `python -m benchmarks.report`.

From benchmarks/results/ it writes the README's results, docs/benchmarks.md and its pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.cases import BARS, LAYOUTS
from benchmarks.cpu.suite import Row
from benchmarks.measure import apart
from models.training.files import write_whole
from proof.where import ROOT

RESULTS = ROOT / "benchmarks" / "results"
README, DOCUMENT = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PARTS = ("forward", "forward+backward")
NOTHING = "Not measured yet: `python -m benchmarks`, then `python -m benchmarks.report`."
Results = dict[str, dict[str, Any]]


def load(folder: Path = RESULTS) -> Results:
    """The result of each suite that has one."""
    paths = {name: folder / f"cpu_{name}.json" for name in ABOUT}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def ratio(row: Row, name: str) -> str:
    """Median of a contender over that of fused; bold where the 20-80 % intervals are apart."""
    other, fused = row["values"].get(name), row["values"].get("fused")
    if other is None:
        return ""
    if isinstance(other, str):
        return other  # wrong or failed
    if not isinstance(fused, dict) or fused["median"] <= 0:
        return "no ratio"
    quotient = other["median"] / fused["median"]
    text = f"{quotient:.2f}" if quotient >= 0.1 else f"{quotient:.2g}"
    return f"**{text}**" if apart(other, fused) else text


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def value(row: Row, name: str) -> str:
    """Median with the 20th and 80th percentile."""
    spread = row["values"].get(name, "")
    if isinstance(spread, str):
        return spread
    low, median, high = (_number(spread[of]) for of in ("low", "median", "high"))
    return median if low == high else f"{median} [{low}, {high}]"


def conditions(result: dict[str, Any]) -> str:
    """Hardware, versions, commit and command in a sentence."""
    caches = ", ".join(f"{n} {s}" for n, s in result["caches"].items() if n in ("L2", "L3"))
    return (
        f"{result['processor']}, {result['cores']} cores, {result['instruction_set']}, {caches}; "
        f"torch {result['torch']}, Python {result['python']}, {result['allocator']['libc']} that "
        f"keeps its memory; load before {result['load']['at_start']}; commit {result['commit']}; "
        f"{result['rounds']} rounds; `{result['command']}`"
    )


def table(result: dict[str, Any]) -> list[str]:
    """Every row of a suite: fused in its unit, the others as multiples of it."""
    rows = result["rows"]
    others = list(dict.fromkeys(n for row in rows for n in row["values"] if n != "fused"))
    lines = [f"| case | threads | part | fused | {' | '.join(others)} |", "|---" * 4]
    lines[1] += "|---" * len(others) + "|"
    for row in rows:
        cells = [row["case"], str(row["threads"]), row["part"]]
        cells.append(f"{value(row, 'fused')} {row['unit']}".strip())
        cells += [ratio(row, name) for name in others]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def steps(result: dict[str, Any]) -> list[str]:
    """Images per second, and the share of a step that its routers take."""
    both: dict[tuple[str, int], dict[str, Row]] = {}
    for row in result["rows"]:
        both.setdefault((row["case"], row["threads"]), {})[row["part"]] = row
    lines = [
        "| network | threads | eager, images/s | compile | fused | routers' share, eager | fused |",
        "|---|---|---|---|---|---|---|",
    ]
    for (case, threads), parts in both.items():
        (whole_part,) = parts.keys() - {"routers alone"}
        step, routers = (parts[part]["values"] for part in (whole_part, "routers alone"))
        cells = [case if whole_part == "step" else f"{case}, {whole_part}", str(threads)]
        for name in ("eager", "compile", "fused"):
            time = step.get(name, "")
            text = isinstance(time, str)
            cells.append(
                time if text else _number(parts[whole_part]["batch"] / time["median"] * 1e6)
            )
        for name in ("eager", "fused"):
            one, whole = routers.get(name, ""), step.get(name, "")
            known = isinstance(one, dict) and isinstance(whole, dict)
            cells.append(f"{one['median'] / whole['median']:.1%}" if known else str(one))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _times_fused(rows: list[Row]) -> list[str]:
    """How many times fused's time eager and compiled take: the least and the largest ratio."""
    cells = []
    for names in (("loops", "stacked", "eager"), ("compile",)):
        ratios = []
        for values in (row["values"] for row in rows):
            # Of two spellings in plain PyTorch, the faster one.
            times = [each["median"] for n in names if isinstance(each := values.get(n), dict)]
            if times and isinstance(values.get("fused"), dict):
                ratios.append(min(times) / values["fused"]["median"])
        ends = dict.fromkeys(f"{end(ratios):.2f}" for end in (min, max) if ratios)
        cells.append(" to ".join(ends))
    return cells


def _in_short(results: Results) -> list[tuple[str, list[Row]]]:
    """The rows that the README sums up, all in float32 with all threads, and what it calls them."""
    rows = {name: result["rows"] for name, result in results.items()}
    most = max(row["threads"] for row in rows["routers"])
    for name in rows:
        rows[name] = [row for row in rows[name] if row["threads"] == most]
    bars = {str(case) for case in BARS if case.layout == LAYOUTS[0] and case.dtype == "fp32"}
    few = [row for row in rows["routers"] if row["case"] in bars]
    many = [
        row for row in rows.get("scaling", [])
        if any(f" {paths}->{paths} fp32 " in row["case"] for paths in range(5, 9))
    ]  # fmt: skip
    told = []
    for name, of_routers in (("2 or 4", few), ("5 to 8", many)):
        for part in PARTS if of_routers else ():
            told.append(
                (f"router of {name} paths, {part}", [r for r in of_routers if r["part"] == part])
            )
    steps = [r for r in rows.get("steps", []) if r["part"] == "step" and "fp32" in r["case"]]
    largest = max((row["batch"] for row in steps), default=0)
    told += [(f"training step, {r['case']}", [r]) for r in steps if r["batch"] == largest]
    return told


def readme_block(results: Results) -> str:
    """The text between the README's markers."""
    if "routers" not in results:
        return NOTHING
    result = results["routers"]
    lines = ["| time on a CPU, fused = 1 | eager PyTorch | torch.compile |", "|---|---|---|"]
    lines += [f"| {' | '.join([name, *_times_fused(rows)])} |" for name, rows in _in_short(results)]
    where = f"{result['processor']}, {result['cores']} cores, {result['instruction_set']}"
    return "\n".join([*lines, "", f"{where}; torch {result['torch']}; float32, all cores."])


ABOUT = {
    "routers": "Every router of the paper's networks, each shape once, and the named set. "
    "operator: the fused operators called without autograd. copy: torch's `copy_` of as many "
    "bytes as must be moved at least. plain and streaming loop: the same bytes in C++, sample by "
    "sample, with regular and with streaming stores; two-pass loop: with each sample read before "
    "it is read and written, as a router must.",
    "combine": "Predictions [2 C, ...] of two paths, weighted for two outputs [C, ...] with biases "
    "and a ReLU: what follows the convolutions of a cross-prediction router. copy: torch's `copy_` "
    "of as many bytes as reading and writing every map once moves.",
    "layers": "Whole layers of cross-predictions of small vectors: gates, matrix products, biases, "
    "weighted sums and ReLUs. fused: one operator. parts: the gate, a matrix product per path, and "
    "combine, as larger layers run. loops: the layer in PyTorch.",
    "overhead": "Tiny vectors, where the calls themselves are the cost. One more router in a chain "
    "is half of what three in a row take beyond one, forward and backward.",
    "steps": "A training step: forward, backward and SGD. Routers alone are all routers of the "
    "network, forward and backward, on the maps that they meet in it, in the same rounds. Those of "
    "cross-predicted networks (cp) hold the convolutions of their predictions, the same in both "
    "kinds. Networks for 224x224 images: forward alone.",
    "profile": "Percent of a training step's operators by kind of layer; of eager: over fused's. "
    "Eager routers are operators that other layers use too, and stand under the rest.",
    "memory": "Peak of what PyTorch's allocator has given out during a training step or a forward "
    "pass, above what is held between them; and of all its routers alone, one by one.",
    "scaling": "Maps [64, 8, 8]: one of threads, batch and paths grows.",
}


def document(results: Results) -> str:
    """The whole of docs/benchmarks.md."""
    lines = [
        "# Benchmarks on CPU", "",
        "Written by `python -m benchmarks.report` from benchmarks/results/. Contenders take turns, "
        "round by round, in one process; what is wrong against float64 gets no time. Of fused: the "
        "median with the 20th and 80th percentile. Of the others: the ratio of medians to fused, "
        "bold where the 20-80 % intervals are apart.",
    ]  # fmt: skip
    if not results:
        lines += ["", NOTHING]
    pictures = {"routers": "router_speedups", "scaling": "scaling"}
    for name, result in results.items():
        lines += ["", f"## {name}", "", ABOUT[name]]
        # A result may hold more: cases that were measured in other runs, with their conditions.
        for run in (result, *result.get("more", ())):
            lines += ["", f"{conditions(run)}.", ""]
            if name in pictures and run is result:
                lines += [f"![{name}]({pictures[name]}.svg)", ""]
            if name == "steps":
                lines += [*steps(run), ""]
            lines += table(run)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Writes README, document and pictures."""
    argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__).parse_args()
    results = load()
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n{readme_block(results)}\n{END}{after}"
    write_whole(README, lambda to: to.write_text(new))
    write_whole(DOCUMENT, lambda to: to.write_text(document(results)))
    if "routers" in results:
        plots.speedups(results["routers"], DOCUMENT.parent / "router_speedups.svg")
    if "scaling" in results:
        plots.scaling(results["scaling"], DOCUMENT.parent / "scaling.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
