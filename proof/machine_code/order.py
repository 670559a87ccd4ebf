"""In which order machine code asks for memory: what a warp waits for one after the other."""

from __future__ import annotations

import re
from typing import NamedTuple

# An instruction, after its address and an optional predicate, and its operands.
_SASS = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?);")
_REGISTER = re.compile(r"\bR(\d+)(\.64)?\b")
_EXCHANGES = {"SHFL", "BAR", "STS", "STSM"}
_STORES = {"STG", "STS", "STSM", "STL"}
_NO_OPERANDS = {"BAR", "BRA", "EXIT", "NOP"}


class Order(NamedTuple):
    """What straight-line code waits for; of a loop, one pass counts."""

    early_wide_loads: int  # of 16 bytes, before the first exchange between threads
    trips: int  # to memory, one after the other


def _registers(operands: str, width: int = 1) -> set[int]:
    """The registers that these operands name; `width` of each, two of an address."""
    named = set()
    for match in _REGISTER.finditer(operands):
        first = int(match[1])
        named |= set(range(first, first + (2 if match[2] else width)))
    return named


def _width(name: str) -> int:
    return 4 if ".128" in name else 2 if ".64" in name else 1


def read_order(sass: str) -> Order:
    """Reads the code of one kernel, as nvdisasm prints it.

    A warp issues in order. The loads that it issues before it uses the result of any of them are
    one trip.
    """
    waited_for: set[int] = set()
    trips = wide = 0
    early = None
    on_the_way = False
    for name, operands in _SASS.findall(sass):
        kind, (first, *rest) = name.split(".")[0], operands.split(",")
        if early is None and kind in _EXCHANGES:
            early = wide
        if kind in _NO_OPERANDS:
            continue
        read = _registers(",".join(rest), _width(name) if kind in _STORES else 1)
        if kind in _STORES:
            read |= _registers(first)
        if waited_for & read:
            waited_for, on_the_way = set(), False
        if kind == "LDG":
            trips += not on_the_way
            on_the_way = True
            wide += ".128" in name
            waited_for |= _registers(first, _width(name))
        elif kind not in _STORES:
            waited_for -= _registers(first)
    return Order(wide if early is None else early, trips)
