"""What `mpkernels.tune` finds: whether another launch beats the built-in rule's."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import mpkernels as mpk
from benchmarks.cases import Case
from benchmarks.workload import map_like

CASES = {
    str(case): case
    for case in (
        Case(128, 64, (8, 8), 2, 2), Case(128, 32, (16, 16), 3, 3), Case(64, 16, (32, 32), 3, 3),
        Case(128, 64, (8, 8), 2, 2, "bf16"), Case(128, 32, (16, 16), 3, 3, "bf16"),
        Case(32, 64, (56, 56), 2, 2), Case(32, 64, (56, 56), 2, 2, "bf16"),
    )
}  # fmt: skip


def cases() -> list[str]:
    """Routers."""
    return list(CASES)


def run(name: str) -> dict[str, Any]:
    """Times as shares of the rule's, and the launches that took its place."""
    case = CASES[name]
    router = mpk.CrossConnect(case.channels, case.inputs, case.outputs).to("cuda")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        shares = mpk.tune(router, [map_like(case, "cuda") for _ in range(case.inputs)])
        (table,) = Path(folder).rglob("*.json")
        return {"shares": shares, "found": json.loads(table.read_text())}
