"""The tests' own tables on the card: strided, expanded and missing gradients, odd shapes, NaN."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from benchmarks.gpu.rows import ROOT

SECONDS = 70.0
PROCESSES = 4  # of each file, where pytest-xdist is installed
FILES = ("test_operators.py", "test_semantics.py", "test_walks.py", "test_autograd.py")


def cases() -> list[str]:
    """Files of tests that take --device."""
    return list(FILES)


def run(name: str) -> dict[str, Any]:
    """Runs a file; counts, and the first failures' names and messages."""
    side_by_side = ["-n", str(PROCESSES)] if importlib.util.find_spec("xdist") else []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--device", "cuda", *side_by_side]
        options = [
            "-W",
            "default",
            "-p",
            "no:cacheprovider",
            f"--junitxml={table}",
            f"tests/{name}",
        ]
        said = subprocess.run(
            [*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
        )
        if not table.exists():
            raise RuntimeError(f"pytest did not start: {(said.stdout + said.stderr)[-1500:]}")
        suite = next(ElementTree.parse(table).getroot().iter("testsuite"))
    failed = []
    for test in suite.iter("testcase"):
        for kind in ("failure", "error"):
            found = test.find(kind)
            if found is not None:
                failed.append(f"{test.get('name')}: {found.get('message', '')[:300]}")
    counts = {kind: int(suite.get(kind, 0)) for kind in ("tests", "failures", "errors", "skipped")}
    right = said.returncode == 0 and counts["tests"] > counts["skipped"]
    row = {**counts, "right": right, "wrong": "; ".join(failed[:3])}
    return row | ({} if right else {"traceback": "\n".join(failed) or said.stdout[-3000:]})
