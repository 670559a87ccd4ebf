"""Launches that were timed on a card and beat the written rule; `tune` measures, launchers look."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import torch

from mpkernels.ops.layout import Geometry
from mpkernels.ops.onchip import OnChip, on_chip
from mpkernels.triton.launch import (
    RESIDENT_ELEMENTS,
    Card,
    Resident,
    Walk,
    card_of,
    chunks_of,
    cross_connect_launch,
)
from mpkernels.triton.launching import forget_plans

# A candidate replaces the rule's choice only where it is clearly faster.
GAIN = 0.95
# In a key: by whichever method the rule walks the sample.
WALKED = "walked"


def table_of(device: torch.device) -> Path:
    """The file of a card's tuned launches, below the user's cache folder."""
    named = os.environ.get("XDG_CACHE_HOME")
    cache = Path(named) if named else Path.home() / ".cache"
    name = re.sub(r"\W+", "_", torch.cuda.get_device_name(device)).lower()
    return cache / "mpkernels" / f"{name}.json"


def key_of(
    geometry: Geometry,
    inputs: int,
    outputs: int,
    hidden: int,
    itemsize: int,
    backward: bool,
    method: str,
) -> str:
    """What a tuned launch depends on: sizes, and the method that the rule takes for the batch.

    The batch itself is left out, so that a sample's result does not depend on it: where the rule
    takes one method, every batch gets one launch. Both methods that walk agree to the last bit, and
    may have a launch each; shared memory takes the place of both, as `WALKED`, or of neither.
    """
    layout = "last" if geometry.channels_last else "first"
    sizes = (geometry.channels, geometry.positions, inputs, outputs, hidden, itemsize)
    return " ".join(map(str, (*sizes, layout, "backward" if backward else "forward", method)))


def _methods(ruled: Resident | Walk) -> tuple[str, ...]:
    """Under which methods the table may have a launch in the rule's place, the first of them."""
    return (WALKED, ruled.method) if isinstance(ruled, Walk) else (ruled.method,)


def _method(ruled: Resident | Walk, launch: Resident | OnChip | Walk) -> str:
    """Under which of them it has this one."""
    return _methods(ruled)[0] if isinstance(launch, OnChip) else ruled.method


def _table(path: Path) -> dict[str, list[object]]:
    """What the file holds; ValueError or OSError if that is no table."""
    try:
        table = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    if not isinstance(table, dict):
        raise ValueError(f"a {type(table).__name__} instead of a table")
    return table


def _warn(path: Path, what: str) -> None:
    warnings.warn(f"mpkernels: {path}: {what}", RuntimeWarning, stacklevel=2)


@lru_cache(maxsize=8)
def _read(device: torch.device) -> dict[str, list[object]]:
    try:
        path = table_of(device)
    except RuntimeError:  # no home folder, hence no table
        return {}
    try:
        return _table(path)
    except (OSError, ValueError) as error:
        _warn(path, f"not a table of tuned launches, the written rule chooses instead ({error})")
        return {}


@lru_cache(maxsize=4096)
def launch_for(
    geometry: Geometry,
    inputs: int,
    outputs: int,
    hidden: int,
    itemsize: int,
    device: torch.device,
    backward: bool = False,
) -> Resident | OnChip | Walk:
    """The tuned launch where the card's table has one, else the rule's."""
    card = card_of(device)
    ruled = cross_connect_launch(geometry, inputs, outputs, hidden, itemsize, card, backward)
    if device.type != "cuda":
        return ruled
    sizes = (inputs, outputs, hidden, itemsize)
    for method in _methods(ruled):
        key = key_of(geometry, *sizes, backward, method)
        entry = _read(device).get(key)
        if entry is None:
            continue
        for candidate in candidates(ruled, geometry, *sizes, card, backward):
            if entry == describe(candidate) and method == _method(ruled, candidate):
                return candidate
        what = f"{key!r} is {entry}, which this card or installation cannot run; tune again"
        _warn(table_of(device), what)
    return ruled


def describe(launch: Resident | OnChip | Walk) -> list[object]:
    """A launch as the table keeps it."""
    if isinstance(launch, OnChip):
        return [launch.method, launch.cluster]
    return [launch.method, launch.num_warps if isinstance(launch, Resident) else launch.samples]


def candidates(
    ruled: Resident | Walk,
    geometry: Geometry,
    inputs: int,
    outputs: int,
    hidden: int,
    itemsize: int,
    card: Card,
    backward: bool,
) -> Iterator[Resident | OnChip | Walk]:
    """What `tune` tries: the rule's launch first, then its neighbours, then shared memory."""
    yield ruled
    if isinstance(ruled, Resident):
        for warps in (1, 2, 4, 8, 16):
            values = ruled.rows * ruled.cols * max(inputs, outputs)
            if warps != ruled.num_warps and values <= warps * 32 * 128 <= 4 * RESIDENT_ELEMENTS:
                yield ruled._replace(num_warps=warps)
    chunks = chunks_of(geometry, hidden, itemsize, inputs, outputs)
    for waves in (1, 2, 4):
        launch = Walk("streamed", waves * card.multiprocessors, chunks)
        if launch != ruled:
            yield launch
    fit = ruled.samples if isinstance(ruled, Walk) else 1024
    for samples in (fit // 2, fit, 2 * fit, 1 << 20):
        launch = Walk("split", max(1, samples), chunks)
        if launch != ruled:
            yield launch
    if card.chip is not None:
        kept = on_chip(geometry, inputs, outputs, hidden, itemsize, card.chip, backward)
        if kept is not None:
            yield kept


def fastest(
    times: Mapping[Resident | OnChip | Walk, float],
) -> tuple[Resident | OnChip | Walk, float]:
    """The launch to use and its share of the ruled one's time, which is the first."""
    ruled, base = next(iter(times.items()))
    best = min(times, key=times.__getitem__)
    return (best, times[best] / base) if times[best] < GAIN * base else (ruled, 1.0)


def entries(
    best: Resident | OnChip | Walk,
    ruled: Resident | Walk,
    geometry: Geometry,
    inputs: int,
    outputs: int,
    hidden: int,
    itemsize: int,
    backward: bool,
) -> dict[str, list[object] | None]:
    """What the table is to hold, for `write`, where `best` is to take the place of the rule's."""
    sizes = (inputs, outputs, hidden, itemsize, backward)
    entries = {key_of(geometry, *sizes, method): None for method in _methods(ruled)}
    of_best = {key_of(geometry, *sizes, _method(ruled, best)): describe(best)}
    return {**entries, **(of_best if best != ruled else {})}


def write(device: torch.device, entries: Mapping[str, list[object] | None]) -> Path:
    """Adds launches to the card's table, whole or not at all; None removes one."""
    path = table_of(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        table = _table(path)
    except ValueError as error:
        aside = path.with_suffix(".unreadable")
        path.replace(aside)
        _warn(path, f"was no table of tuned launches ({error}); it is {aside.name} now")
        table = {}
    merged = {key: value for key, value in {**table, **entries}.items() if value is not None}
    partly = path.with_suffix(f".{os.getpid()}.part")
    partly.write_text(json.dumps(merged, indent=1) + "\n", "utf-8")
    partly.replace(path)
    _read.cache_clear()
    launch_for.cache_clear()
    forget_plans()
    return path
