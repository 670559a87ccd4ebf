"""GPU figures in the README and docs equal those of the committed rows."""

import json
import re

import pytest

from proof.where import ROOT

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def measured():
    """Medians of the GPU rows by (step, case), then by contender and part."""
    medians = {}
    for line in (ROOT / "benchmarks/results/gpu/h100/rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        times = row.get("microseconds", {})
        medians[row["step"], row["case"]] = {name: each["median"] for name, each in times.items()}
    return medians


def test_gpu_times_of_routers_are_those_of_the_rows(measured):
    """Every line of the table of routers in docs/gpu.md, and the README's summary of it."""
    page = (ROOT / "docs/gpu.md").read_text()
    lines = re.findall(r"^\| (\[.*\] \d->\d (?:fp32|bf16)) \| (.*) \|$", page, re.MULTILINE)
    assert len(lines) == 10
    loops = {"forward": [], "backward": []}
    for router, cells in lines:
        case = f"B=128 {router}" + (" NCHW" if "," in router else "")
        times = measured["routers", case]
        one, two = (times[f"fused {part}"] for part in loops)
        expected = [f"{one:.1f}, {two:.1f}"]
        for other in ("loops", "stacked", "copy"):
            a, b = (times[f"{other} {part}"] for part in loops)
            expected.append(f"{a / one:.2f}, {b / two:.2f}")
        assert cells == " | ".join(expected), router
        for part, values in loops.items():
            values.append(times[f"loops {part}"] / times[f"fused {part}"])
    (least, most), (least_back, most_back) = ((min(v), max(v)) for v in loops.values())
    words = " ".join(README.split())
    assert f"take {least:.1f} to {most:.0f} times the GPU time" in words
    assert f"forward, {least_back:.0f} to {most_back:.0f} times backward" in words


def test_gpu_times_of_steps_are_those_of_the_rows(measured):
    page, words = (ROOT / "docs/gpu.md").read_text(), " ".join(README.split())
    lines = re.findall(r"^\| (\w+), batch \d+, (.*) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    assert len(lines) == 4
    for name, dtype, plain, graph in lines:
        medians = measured["networks", f"{name} {dtype} NCHW"]
        for cell, suffix in ((plain, ""), (graph, " graph")):
            eager, fused, times = map(float, re.findall(r"[\d.]+", cell)[:3])
            expected = [medians[f"{routers}{suffix}"] / 1e3 for routers in ("eager", "fused")]
            for written, value in ((eager, expected[0]), (fused, expected[1])):
                assert float(f"{value:.3g}") == written, (name, dtype, cell)
            assert times == round(expected[0] / expected[1], 2), (name, dtype, cell)
            if name == "basecnn_3_cc":
                assert f"{times:.2f}".rstrip("0") in words or f"{times:.1f}" in words


def test_gpu_times_of_two_passes_are_those_of_the_rows(measured):
    """The table of two passes in docs/internals/kernels.md; "fused" rows are those kept on chip."""
    page = (ROOT / "docs/internals/kernels.md").read_text()
    pattern = (
        r"^\| (B=\d+ \[.*\] \d->\d) (\S+) \| (\w+) \| (\w+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$"
    )
    lines = re.findall(pattern, page, re.MULTILINE)
    pairs = [
        (case, part)
        for (step, case), times in measured.items()
        for part in ("forward", "backward")
        if step == "routers" and f"two-pass {part}" in times
    ]
    assert len(lines) == len(pairs) == 28
    for router, layout, part, dtype, *cells in lines:
        medians = measured["routers", f"{router} {dtype} {layout}"]
        chip, walked = medians[f"fused {part}"], medians[f"two-pass {part}"]
        assert cells == [f"{chip:.1f}", f"{walked:.1f}", f"{walked / chip:.2f}"], (router, part)


def test_gpu_times_of_the_host_are_those_of_the_rows(measured):
    words = " ".join((ROOT / "docs/gpu.md").read_text().split())
    rows = [times for (step, _), times in measured.items() if step == "host"]
    for part, text in (
        ("forward", "takes {:.0f} to {:.0f} us of host time forward"),
        ("both", "{:.0f} to {:,.0f} both ways"),
    ):
        fused = [times[f"fused {part}"] for times in rows]
        assert text.format(round(min(fused), -1), round(max(fused), -1)) in words
    for part, text in (
        ("forward", "loops take {:.1f} to {:.1f}"),
        ("both", "and {:.1f} to {:.1f}"),
    ):
        ratios = [times[f"loops {part}"] / times[f"fused {part}"] for times in rows]
        assert text.format(min(ratios), max(ratios)) in words
