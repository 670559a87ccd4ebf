"""The tables of the page, one per step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.gpu.rows import Row

PARTS = ("forward", "backward", "both")
CONTENDERS = ("fused", "loops", "stacked", "two-pass", "on chip", "copy")


def time(spread: dict[str, Any] | None) -> str:
    """A median in microseconds with its 20-80 % interval."""
    if spread is None:
        return ""
    return f"{spread['median']:.1f} [{spread['low']:.1f}, {spread['high']:.1f}]"


def _head(title: str, note: str, *columns: str) -> list[str]:
    return [
        "",
        f"## {title}",
        "",
        note,
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]


def _line(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def never_launched(rows: Iterable[Row]) -> list[str]:
    """Kernels that no row has run to its end."""
    # Within the function: it imports Triton, and a page is also written where there is none.
    from proof.launches import KERNELS

    launched = {kernel for row in rows for kernel in row.get("kernels", ())}
    return [name for name in KERNELS if name not in launched]


def _launches(rows: list[Row]) -> list[str]:
    missing = never_launched(row for row in rows if row["state"] == "done")
    note = f"Kernels that no case ran to its end: {', '.join(missing) or 'none'}."
    lines = _head("Launches", note, "case", "state", "share of the bound", "Triton kernels")
    for row in rows:
        kernels = ", ".join(row.get("kernels", ()))
        lines.append(_line(row["case"], row["state"], row.get("share", ""), kernels))
    return lines


def _correctness(rows: list[Row]) -> list[str]:
    note = "Cases done, of all cases; the largest error as a share of its bound."
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows if "dtype" in row))
    lines = _head("Correctness", note, "operator", *dtypes)
    for operator in dict.fromkeys(row["operator"] for row in rows if "operator" in row):
        cells = []
        for dtype in dtypes:
            of = [r for r in rows if (r.get("operator"), r.get("dtype")) == (operator, dtype)]
            done = [row["share"] for row in of if row["state"] == "done"]
            cells.append(f"{len(done)} of {len(of)}: {max(done, default=0):.2f}")
        lines.append(_line(operator, *cells))
    missed = sum(row["state"] == "not reached" for row in rows)
    return [*lines, "", f"Not reached: {missed} of {len(rows)} cases."]


def _routers(rows: list[Row]) -> list[str]:
    note = (
        "GPU microseconds of one call, median [20 %, 80 %]: CUDA graphs of many calls over "
        "rotating inputs. copy moves as many bytes as the router must at least. Where Triton walks "
        "samples twice that CUDA C++ keeps on chip, fused is one and the other has its column."
    )
    timed = {name.rpartition(" ")[0] for row in rows for name in row.get("microseconds", ())}
    names = [name for name in CONTENDERS if name in timed]
    lines = _head(
        "Routers", note, "router", "method", "part", *names, "loops / fused", "copy / fused"
    )
    for row in rows:
        times = row.get("microseconds")
        if times is None:
            lines.append(_line(row["case"], row["state"], *[""] * (len(names) + 3)))
            continue
        for part in PARTS:
            cells = [time(times.get(f"{name} {part}")) for name in names]
            lines.append(
                _line(row["case"], row["method"], part, *cells,
                      *(_over(times, other, "fused", part) for other in ("loops", "copy")))
            )  # fmt: skip
    return lines


def _over(times: dict[str, Any], one: str, other: str, part: str) -> str:
    """The quotient of two medians, bold where the intervals are apart."""
    a, b = times.get(f"{one} {part}"), times.get(f"{other} {part}")
    if a is None or b is None:
        return ""
    text = f"{a['median'] / b['median']:.2f}"
    return f"**{text}**" if a["low"] > b["high"] or a["high"] < b["low"] else text


def _compiled(rows: list[Row]) -> list[str]:
    note = "torch.compile of the loops, captured like fused: GPU microseconds of one call."
    lines = _head("torch.compile", note, "router", "part", "fused", "compile", "compile / fused")
    for row in rows:
        times = row.get("microseconds", {})
        for part in PARTS:
            cells = [time(times.get(f"{name} {part}")) for name in ("fused", "compile")]
            lines.append(_line(row["case"], part, *cells, _over(times, "compile", "fused", part)))
    return lines


def _compiled_networks(rows: list[Row]) -> list[str]:
    note = "Microseconds of a training step, compiled and uncompiled, both as graphs."
    lines = _head("Compiled training steps", note, "network", "state", "way", "time")
    for row in rows:
        for way, spread in row.get("microseconds", {"": None}).items():
            lines.append(_line(row["case"], row["state"], way, time(spread)))
    return lines


def _has(rows: list[Row], name: str) -> bool:
    return any(name in row.get("microseconds", {}) for row in rows)


def _host(rows: list[Row]) -> list[str]:
    note = "Microseconds until a call returns, with an idle card."
    ways = [way for way in ("fused", "Triton's launcher", "loops") if _has(rows, f"{way} forward")]
    names = [f"{name} {part}" for part in ("forward", "both") for name in ways]
    lines = _head("Host", note, "router", *names)
    for row in rows:
        times = row.get("microseconds", {})
        lines.append(_line(row["case"], *(time(times.get(name)) for name in names)))
    return lines


def _networks(rows: list[Row]) -> list[str]:
    note = (
        "Microseconds of a training step. Apart: distance of weights after eight steps, trained "
        "with a graph and without, over how far they moved; then the same of two without. In a "
        "graph the paths run side by side, in the last way one after another."
    )
    ways = [f"{routers}{graph}" for graph in ("", " graph") for routers in ("eager", "fused")]
    ways.append("fused graph in turn")
    lines = _head("Training steps", note, "network", *ways, "eager / fused", "as graphs", "apart",
                  "peak MiB eager, fused")  # fmt: skip
    for row in rows:
        times = row.get("microseconds")
        if times is None:
            lines.append(_line(row["case"], row["state"], *[""] * 8))
            continue
        peaks = ", ".join(f"{value / 2**20:.0f}" for value in row["peak_bytes"].values())
        quotients = [
            f"{times[f'eager{graph}']['median'] / times[f'fused{graph}']['median']:.2f}"
            for graph in ("", " graph")
        ]
        lines.append(
            _line(row["case"], *(time(times.get(way)) for way in ways), *quotients,
                  f"{row['graph_apart']:.1e}, {row.get('plain_apart', float('nan')):.1e}", peaks)
        )  # fmt: skip
    return lines


def _device_tests(rows: list[Row]) -> list[str]:
    counts = ("tests", "failures", "errors", "skipped")
    lines = _head("Tests on the card", "One row per test.", "test", "state", *counts)
    return lines + [
        _line(row["case"], row["state"], *(row.get(name, "") for name in counts)) for row in rows
    ]


def _sanitizer(rows: list[Row]) -> list[str]:
    lines = _head(
        "compute-sanitizer", "Over all launches.", "tool", "state", "launches", "last line"
    )
    return lines + [
        _line(row["case"], row["state"], row.get("launches", ""), row.get("last", row.get("why")))
        for row in rows
    ]


def _counters(rows: list[Row]) -> list[str]:
    note = "Bytes, beside the floor of each direction; caches are flushed before each launch."
    lines = _head("Counters", note, "router", "kernel", "us", "read MB", "written MB", "L2 hits %",
                  "warps active %", "registers", "floor MB forward, backward")  # fmt: skip
    for row in rows:
        floor = ", ".join(f"{value / 1e6:.2f}" for value in row.get("floor_bytes", ()))
        for kernel in row.get("kernels", ()):
            numbers = (
                ("microseconds", 1), ("bytes_read", 1e6), ("bytes_written", 1e6),
                ("l2_hit_percent", 1), ("warps_active_percent", 1), ("registers", 1),
            )  # fmt: skip
            cells = [f"{kernel.get(name, float('nan')) / by:.2f}" for name, by in numbers]
            lines.append(_line(row["case"], kernel["kernel"], *cells, floor))
    return lines


def _tuning(rows: list[Row]) -> list[str]:
    note = "Time of the fastest launch over the rule's; 1 if none is clearly faster."
    lines = _head("Tuning", note, "router", "forward", "backward", "what took the rule's place")
    for row in rows:
        shares = row.get("shares", {})
        cells = [f"{shares[part]:.2f}" if part in shares else "" for part in PARTS[:2]]
        lines.append(_line(row["case"], *cells, row.get("found", row["state"])))
    return lines


TABLES: dict[str, Callable[[list[Row]], list[str]]] = {
    "launches": _launches,
    "correctness": _correctness,
    "routers": _routers,
    "compiled": _compiled,
    "host": _host,
    "networks": _networks,
    "compiled_networks": _compiled_networks,
    "device_tests": _device_tests,
    "sanitizer": _sanitizer,
    "counters": _counters,
    "tuning": _tuning,
}
