"""The README: its code runs, its two code blocks agree, and what it names exists."""

import re

import torch

import mpkernels as mpk
from benchmarks import report
from proof.where import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_python_blocks_run_and_agree():
    example, equivalent = BLOCKS
    names = {}
    exec(example, names)
    ys, gates = names["ys"], names["gates"]
    assert len(ys) == 3 and tuple(gates.shape) == (8, 2, 3)
    exec(equivalent, names)
    # Both are float32; the longest sum has C + S terms.
    roundings = 2 * (64 + 64 + 16) * 2.0**-24
    assert names["gates"] is not gates
    assert (gates - names["gates"]).abs().max() <= roundings * gates.abs().max()
    largest = torch.stack(ys).abs().max()
    assert all((a - b).abs().max() <= roundings * largest for a, b in zip(ys, names["ys"]))


def test_every_public_name_is_mentioned():
    hidden = {"__version__"}
    missing = [name for name in set(mpk.__all__) - hidden if name not in README]
    assert missing == []


def test_commands_exist():
    """Targets of make and modules after `python -m` exist."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
    assert targets
    assert [t for t in targets if f"\n{t}:" not in makefile] == []
    modules = {m.replace(".", "/") for m in re.findall(r"python -m ([a-z._]+)", README)}
    assert "mpkernels" in modules
    for module in modules:
        path = ROOT / module
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if not link.startswith("http")]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_readme_stays_short():
    assert len(README.splitlines()) < 160


def test_figures_are_those_of_the_committed_measurement():
    """`python -m benchmarks.report` wrote every figure; none is typed by hand."""
    results = report.load()
    between = README.partition(report.BEGIN)[2].partition(report.END)[0]
    assert between.strip() == report.readme_block(results).strip()
    assert report.DOCUMENT.read_text() == report.document(results)
