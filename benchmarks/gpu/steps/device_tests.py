"""The tests' own tables on the card: strided, expanded and missing gradients, odd shapes, NaN."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from proof.where import ROOT

# Test files that take --device, the most telling first.
FILES = (
    "operators/test_semantics.py", "operators/test_autograd.py", "operators/test_operators.py",
    "kernels/test_walks.py",
)  # fmt: skip


def cases() -> list[str]:
    """Each test, with all its parameters."""
    tests = []
    for name in FILES:
        tree = ast.parse((ROOT / "tests" / name).read_text())
        tests += [
            f"{name}::{node.name}"
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
    return tests


def run(name: str) -> dict[str, Any]:
    """Runs a test; the row has counts, and names and messages of the first failures."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "tests.xml"
        process = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--device", "cuda", "-W", "default",
             "-p", "no:cacheprovider", f"--junitxml={table}", f"tests/{name}"],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        if not table.exists():
            raise RuntimeError(f"pytest did not start: {(process.stdout + process.stderr)[-1500:]}")
        suite = next(ElementTree.parse(table).getroot().iter("testsuite"))
    failed = []
    for test in suite.iter("testcase"):
        for kind in ("failure", "error"):
            failure = test.find(kind)
            if failure is not None:
                failed.append(f"{test.get('name')}: {failure.get('message', '')[:300]}")
    counts = {kind: int(suite.get(kind, 0)) for kind in ("tests", "failures", "errors", "skipped")}
    row = {**counts, "right": process.returncode == 0, "wrong": "; ".join(failed[:3])}
    return row | ({} if row["right"] else {"traceback": process.stdout[-6000:]})
