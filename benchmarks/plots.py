"""Results as SVG pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cases import BARS
from benchmarks.cpu.suite import Row
from models.training.files import write_whole

COLOURS = {
    "loops": "#8d99ae", "stacked": "#8e6bbf", "compile": "#e9a23b", "max-autotune": "#c1581f",
    "copy": "#cccccc", "fused": "#2a9d8f",
}  # fmt: skip
PART = "forward+backward"


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "mpkernels"  # the same picture is the same file
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    write_whole(path, lambda to: figure.savefig(to, format="svg", metadata={"Date": None}))
    _pyplot().close(figure)


def speedups(result: dict[str, Any], path: Path) -> None:
    """Time of each baseline over fused's, forward and backward, for the named set, all threads."""
    most = max(row["threads"] for row in result["rows"])
    names = [str(case) for case in BARS]
    rows: list[Row] = [
        row for row in result["rows"]
        if row["part"] == PART and row["threads"] == most and row["case"] in names
        and isinstance(row["values"].get("fused"), dict)
    ]  # fmt: skip
    baselines = [
        name
        for name in ("loops", "stacked", "compile", "max-autotune")
        if any(isinstance(row["values"].get(name), dict) for row in rows)
    ]
    height = 0.8 / max(1, len(baselines))
    figure, axes = _pyplot().subplots(figsize=(9, 1.5 + 0.4 * len(rows)), layout="constrained")
    for at, name in enumerate(baselines):
        shift = (at - (len(baselines) - 1) / 2) * height
        here = [
            (y, row["values"][name]["median"] / row["values"]["fused"]["median"])
            for y, row in enumerate(rows)
            if isinstance(row["values"].get(name), dict)
        ]
        axes.barh(
            [y + shift for y, _ in here], [ratio for _, ratio in here],
            height, label=name, color=COLOURS[name],
        )  # fmt: skip
    axes.axvline(1, color=COLOURS["fused"], linewidth=2, label="fused")
    axes.set_yticks(range(len(rows)), [row["case"] for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("time as a multiple of fused")
    axes.set_title(
        f"Router, {PART}, {most} threads, {result['processor']} ({result['instruction_set']})",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    _save(figure, path)


def scaling(result: dict[str, Any], path: Path) -> None:
    """Microseconds by threads, batch and paths; error bars show the 20th and 80th percentile."""
    axis_names = list(dict.fromkeys(row["axis"] for row in result["rows"]))
    figure, grid = _pyplot().subplots(
        1, len(axis_names), figsize=(4.5 * len(axis_names), 4), layout="constrained", squeeze=False
    )
    for axes, axis in zip(grid[0], axis_names):
        rows = [row for row in result["rows"] if row["axis"] == axis and row["part"] == PART]
        of = "inputs" if axis == "paths" else axis
        for name, colour in COLOURS.items():
            points = [
                (row[of], row["values"][name])
                for row in rows
                if isinstance(row["values"].get(name), dict)
            ]
            if not points:
                continue
            medians = [spread["median"] for _, spread in points]
            below = [spread["median"] - spread["low"] for _, spread in points]
            above = [spread["high"] - spread["median"] for _, spread in points]
            axes.errorbar(
                [x for x, _ in points], medians, [below, above],
                label=name, color=colour, marker=".", capsize=2,
            )  # fmt: skip
        axes.set_xlabel(axis)
        axes.set_yscale("log")
        if axis == "batch":
            axes.set_xscale("log", base=4)
            axes.xaxis.set_major_formatter("{x:.0f}")
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel(f"{PART} (us)")
    grid[0, -1].legend(fontsize="small")
    figure.suptitle(f"Maps [64, 8, 8], {result['processor']} ({result['instruction_set']})")
    _save(figure, path)
