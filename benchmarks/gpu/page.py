"""The page of the GPU report: one screen of answers, then the tables behind them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.gpu import tables
from benchmarks.gpu.rows import STATES, Row, of_step

SHOWN = 12  # failures on the first screen


def page(every: Sequence[Row]) -> str:
    """The page as Markdown: one part per card, since figures of two cards are never compared."""
    environments = of_step(every, "environment")
    here = environments[-1] if environments else {}
    lines = [f"# mpkernels on {here.get('card') or 'no GPU'}", "", _versions(here), ""]
    for card in dict.fromkeys(row["card"] for row in every):
        rows = [row for row in every if row["card"] == card]
        lines += [f"## {card}: the answers", "", *answers(rows), ""]
        lines += ["## What failed", "", *_failures(rows), ""]
        for name, table in tables.TABLES.items():
            lines += table(of_step(rows, name)) if of_step(rows, name) else []
    return "\n".join(lines) + "\n"


def _versions(here: Row) -> str:
    names = (
        "torch", "triton", "cuda", "cudnn", "python", "cores", "date", "commit",
        "copy_gigabytes_per_second",
    )  # fmt: skip
    known = [f"{name} {here[name]}" for name in names if name in here]
    clocks = ", ".join(f"{name} {value}" for name, value in here.get("clocks", {}).items())
    library = f"CUDA C++ library: {here.get('cuda_library', 'unknown')}"
    tf32 = f"TF32: {here.get('tf32', 'unknown')}"
    return (
        f"`python -m benchmarks.gpu`; {', '.join(known)}; {library}; {tf32}. nvidia-smi: {clocks}."
    )


def verdict(rows: Sequence[Row]) -> str:
    """One line: how many cases of each state."""
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def answers(rows: Sequence[Row]) -> list[str]:
    """The first screen: correctness, speed against each baseline, host time, whole steps."""
    return [
        "| question | answer |",
        "|---|---|",
        f"| Is it right? | {_right(rows)} |",
        *(
            f"| Against {other}, GPU time of the other over fused's ({dtype}) | {quotients} |"
            for dtype in ("fp32", "bf16")
            for other in ("loops", "stacked", "compile", "copy")
            if (quotients := _ratios(rows, other, dtype))
        ),
        f"| Host time of a call | {_host(rows)} |",
        f"| Whole training steps | {_steps(rows)} |",
        f"| Cases | {verdict(rows)} |",
    ]


def _right(rows: Sequence[Row]) -> str:
    parts = []
    for name in ("launches", "correctness", "routers", "networks", "device_tests", "sanitizer"):
        of = of_step(rows, name)
        if of:
            good = sum(row["state"] == "done" for row in of)
            text = f"{name} {good} of {len(of)}"
            missed = sum(row["state"] == "not reached" for row in of)
            parts.append(text + (f" ({missed} not reached)" if missed else ""))
    wrong = sum(row["state"] == "wrong" for row in rows)
    return ("; ".join(parts) or "not reached") + (f"; **{wrong} wrong**" if wrong else "")


def ratio(row: Row, other: str, part: str) -> float | None:
    """Another contender's median over fused's."""
    times = row.get("microseconds", {})
    if f"{other} {part}" in times and f"fused {part}" in times:
        return float(times[f"{other} {part}"]["median"] / times[f"fused {part}"]["median"])
    return None


def _ratios(rows: Sequence[Row], other: str, dtype: str) -> str:
    of = of_step(rows, "compiled" if other == "compile" else "routers", "done")
    parts = []
    for part in ("forward", "backward", "both"):
        each = [ratio(row, other, part) for row in of if f" {dtype}" in row["case"]]
        known = [value for value in each if value is not None]
        if known:
            middle = statistics.median(known)
            parts.append(f"{part} {middle:.2f} ({min(known):.2f} to {max(known):.2f})")
    return "; ".join(parts)


def _host(rows: Iterable[Row]) -> str:
    routers = []
    for row in of_step(rows, "host", "done"):
        times = row["microseconds"]
        pair = " and ".join(
            f"{part} {times[f'fused {part}']['median']:.0f} us (loops "
            f"{times[f'loops {part}']['median']:.0f})"
            for part in ("forward", "both")
        )
        routers.append(f"{row['case']}: {pair}")
    return "; ".join(routers[:2]) or "not reached"


def _steps(rows: Iterable[Row]) -> str:
    networks = []
    for row in of_step(rows, "networks"):
        times = row.get("microseconds")
        if times and row["case"].endswith("NCHW"):
            pairs = ", ".join(
                f"{way} {1e-3 * each['median']:.2f} ms" for way, each in times.items()
            )
            networks.append(f"{row['case']}: {pairs}")
    return "; ".join(networks) or "not reached"


def _failures(rows: Sequence[Row]) -> list[str]:
    bad = [row for row in rows if row["state"] not in ("done", "not reached")]
    lines = []
    for row in bad[:SHOWN]:
        why = " ".join(str(row.get("why") or row.get("wrong") or "").split())[:200]
        lines.append(f"- {row['step']}: {row['case']}: {row['state']}: {why}")
    if len(bad) > SHOWN:
        lines.append(f"- and {len(bad) - SHOWN} more: failures.log")
    return lines or ["Nothing."]
