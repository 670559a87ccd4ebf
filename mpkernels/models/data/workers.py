"""Processes that read images in the background, and end when this one says so."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Blocks SIGTERM in this thread, and so in every thread of a process that is forked meanwhile.

    A worker's libraries start threads before any function of ours runs there, and a signal goes to
    any one thread that does not block it.
    """
    if not hasattr(signal, "sigwaitinfo"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _heed_only_the_parent() -> None:
    """Makes a worker ignore Ctrl-C, and SIGTERM unless its parent sends it.

    Both signals may reach all processes; the parent saves its state first, then ends the workers.
    If SIGTERM were ignored, the parent could not end the worker and would wait forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # where it was not forked
        threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


def _begin(own: Callable[[int], object] | None, worker: int) -> None:
    _heed_only_the_parent()
    if own is not None:
        own(worker)


def batches(
    dataset: Dataset[Any], parts: list[list[int]], workers: int, collate: Callable[..., Any],
    pinned: bool, seed: int = 0, begin: Callable[[int], object] | None = None,
) -> Generator[Any]:  # fmt: skip
    """Reads batches of a dataset; closing the generator ends the processes.

    Args:
        dataset: gives an item by its index.
        parts: the indices of each batch.
        workers: number of processes that read; with 0 this one does.
        collate: makes a batch of its items.
        pinned: whether batches are to lie in memory from which GPUs copy.
        seed: seed of the workers' generators.
        begin: called with its number in each worker before it reads.
    """
    loader = DataLoader(
        dataset, batch_sampler=parts, num_workers=workers, collate_fn=collate,
        pin_memory=pinned, worker_init_fn=partial(_begin, begin),
        generator=torch.Generator().manual_seed(seed),  # else it would draw from the global one
    )  # fmt: skip
    with _sigterm_blocked():
        begun = iter(loader)
    yield from begun
