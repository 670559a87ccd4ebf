"""Launches that were timed on a card and beat the written rule; `tune` measures, launchers look."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import torch

from mpkernels.ops.layout import Geometry
from mpkernels.triton.launch import (
    RESIDENT_ELEMENTS,
    Card,
    Resident,
    Walk,
    card_of,
    chunks_of,
    cross_connect_launch,
)

# A candidate replaces the rule's choice only where it is clearly faster.
GAIN = 0.95


def table_of(device: torch.device) -> Path:
    """The file of a card's tuned launches, below the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    name = re.sub(r"\W+", "_", torch.cuda.get_device_name(device)).lower()
    return cache / "mpkernels" / f"{name}.json"


def key_of(
    geometry: Geometry, inputs: int, outputs: int, hidden: int, itemsize: int, backward: bool
) -> str:
    """What a tuned launch depends on: everything but the batch."""
    layout = "last" if geometry.channels_last else "first"
    sizes = (geometry.channels, geometry.positions, inputs, outputs, hidden, itemsize)
    return " ".join(map(str, (*sizes, layout, "backward" if backward else "forward")))


@lru_cache(maxsize=8)
def _read(device: torch.device) -> dict[str, list[object]]:
    path = table_of(device)
    return json.loads(path.read_text()) if path.exists() else {}


@lru_cache(maxsize=4096)
def launch_for(
    geometry: Geometry,
    inputs: int,
    outputs: int,
    hidden: int,
    itemsize: int,
    device: torch.device,
    backward: bool = False,
) -> Resident | Walk:
    """The tuned launch where the card's table has one, else the rule's."""
    card = card_of(device)
    ruled = cross_connect_launch(geometry, inputs, outputs, hidden, itemsize, card, backward)
    if device.type != "cuda":
        return ruled
    found = _read(device).get(key_of(geometry, inputs, outputs, hidden, itemsize, backward))
    for candidate in candidates(ruled, geometry, inputs, outputs, hidden, itemsize, card):
        if found == describe(candidate):
            return candidate
    return ruled


def describe(launch: Resident | Walk) -> list[object]:
    """A launch as the table keeps it."""
    return [launch.method, launch.num_warps if isinstance(launch, Resident) else launch.samples]


def candidates(
    ruled: Resident | Walk,
    geometry: Geometry,
    inputs: int,
    outputs: int,
    hidden: int,
    itemsize: int,
    card: Card,
) -> Iterator[Resident | Walk]:
    """What `tune` tries: the rule's launch first, then its neighbours."""
    yield ruled
    if isinstance(ruled, Resident):
        for warps in (2, 4, 8, 16):
            values = ruled.samples * ruled.rows * ruled.cols * max(inputs, outputs)
            if warps != ruled.num_warps and values <= warps * 32 * 128 <= 4 * RESIDENT_ELEMENTS:
                yield ruled._replace(num_warps=warps)
    chunks = chunks_of(geometry, hidden, itemsize, inputs * outputs)
    for waves in (1, 2, 4):
        launch = Walk("streamed", waves * card.multiprocessors, chunks)
        if launch != ruled:
            yield launch
    fit = ruled.samples if isinstance(ruled, Walk) else 1024
    for samples in (fit // 2, fit, 2 * fit, 1 << 20):
        launch = Walk("split", max(1, samples), chunks)
        if launch != ruled:
            yield launch


def fastest(
    tried: Iterator[Resident | Walk], seconds: Callable[[Resident | Walk], float]
) -> tuple[Resident | Walk, float]:
    """The launch to use and its share of the ruled one's time, which is the first tried."""
    ruled = next(tried)
    base = seconds(ruled)
    best, least = ruled, base
    for launch in tried:
        took = seconds(launch)
        if took < least and took < GAIN * base:
            best, least = launch, took
    return best, least / base


def write(device: torch.device, found: dict[str, list[object]]) -> Path:
    """Adds launches to the card's table, whole or not at all."""
    path = table_of(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    merged = {**(json.loads(path.read_text()) if path.exists() else {}), **found}
    partly = path.with_suffix(f".{os.getpid()}.part")
    partly.write_text(json.dumps(merged, indent=1) + "\n")
    partly.replace(path)
    _read.cache_clear()
    launch_for.cache_clear()
    return path
