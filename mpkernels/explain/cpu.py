"""How the C++ kernels share a call among threads; csrc/cpu/tasks.h has the same rules."""

from __future__ import annotations

import torch

from mpkernels.ops.layout import Geometry

# A task holds at least this many elements.
_TASK_ELEMENTS = 32768
# A part of a sample holds about this many of each map (csrc/problem.h); combine's, in
# channels_last, at least so many rows.
_PART_ELEMENTS = 8192
_PART_ROWS = 16


def shares_samples(geometry: Geometry, maps: int) -> bool:
    """Whether threads share each sample, in two loops, as there are too few samples for them."""
    threads = torch.get_num_threads()
    sample = maps * geometry.channels * geometry.positions
    return threads > 1 and geometry.batch < 2 * threads and sample >= 4 * _TASK_ELEMENTS


def notes_of_samples(geometry: Geometry, maps: int) -> list[str]:
    """Threads that idle where a task is some samples of `maps` maps."""
    if shares_samples(geometry, maps):
        return []
    return _idle(geometry.batch, maps * geometry.channels * geometry.positions)


def notes_of_parts(geometry: Geometry, maps: int) -> list[str]:
    """Threads that idle where a task is some parts of samples of `maps` maps, as in combine."""
    rows = max(1, _PART_ELEMENTS // max(1, geometry.cols))
    rows = max(rows, _PART_ROWS) if geometry.channels_last else rows
    parts = max(1, -(-geometry.rows // rows))
    return _idle(geometry.batch * parts, maps * geometry.channels * (geometry.positions // parts))


def _idle(items: int, elements: int) -> list[str]:
    tasks = -(-items // max(1, _TASK_ELEMENTS // max(1, elements)))
    threads = torch.get_num_threads()
    if tasks >= threads:
        return []
    return [f"the batch makes {tasks} task(s) worth a thread, so {threads - tasks} thread(s) idle"]
