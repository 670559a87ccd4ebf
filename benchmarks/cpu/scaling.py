"""How time grows with threads, batch and paths, for maps [64, 8, 8]."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import Case, picked
from benchmarks.cpu.routers import case_rows
from benchmarks.cpu.suite import Choice, Row

CONTENDERS = ("loops", "stacked", "compile", "fused", "copy")
START = Case(128, 64, (8, 8), 2, 2)


def rows(choice: Choice) -> Iterator[Row]:
    """One of the three grows at a time; the rest is START with all threads."""
    most = max(choice.threads)
    grown = {
        "threads": [(START, threads) for threads in range(1, most + 1)],
        "batch": [(START._replace(batch=4**power), most) for power in range(6)],
        "paths": [(START._replace(inputs=m, outputs=m), most) for m in range(1, 9)],
    }
    for axis, points in grown.items():
        for case, threads in points:
            if picked([case], choice.text):
                for row in case_rows(case, threads, choice.only(CONTENDERS), choice.rounds):
                    yield {"axis": axis, **row}
