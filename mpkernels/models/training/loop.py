"""The training loop: safe to interrupt, exact to resume, on one process or several."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn
from tqdm import tqdm

from ..data import DataSet
from . import checkpoint
from .parallel import Processes
from .recipe import Recipe
from .runs import BEST, Run
from .step import Trainer
from .weights import check_options

SAVE_EVERY = 600.0


class Interrupted(KeyboardInterrupt):
    """Training stopped on request after its state was saved; `signal` is the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


@contextmanager
def _stops() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM, which the loop handles between steps.

    A second Ctrl-C ends the process at once, for a step that never ends, wherever that hangs; what
    was saved before stays.
    """
    signals: list[int] = []

    def request(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)

    # Only the main thread may set handlers.
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = [signal.signal(number, request) for number in numbers]
    try:
        yield signals
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


class _Progress:
    """A progress bar in a terminal, a line every half minute elsewhere."""

    def __init__(self, trainer: Trainer, total: int, shown: bool) -> None:
        recipe = trainer.recipe
        self.title = f"epoch {trainer.epoch + 1}/{recipe.epochs}"
        self.trainer, self.total, self.shown = trainer, total, shown
        self.bar = tqdm(total=total, initial=trainer.step, desc=self.title, unit="step",
                        disable=None if shown else True, leave=False)  # fmt: skip
        self.told = time.perf_counter()

    def step(self) -> None:
        """Shows one more step."""
        trainer = self.trainer
        text = f"loss {trainer.loss / trainer.seen:.3f}, {100 * trainer.right / trainer.seen:.1f}%"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        now = time.perf_counter()
        if self.shown and self.bar.disable and now - self.told > 30:
            self.told = now
            print(f"{self.title}: step {trainer.step}/{self.total}, {text}", file=sys.stderr)

    def close(self, finished: bool) -> None:
        """Ends with the epoch, or when training stops."""
        self.bar.close()
        if self.shown and finished:
            last = self.trainer.metrics[-1]
            print(
                f"{self.title}: test loss {last['test_loss']:.4f}, test accuracy "
                f"{100 * last['test_accuracy']:.2f}%, {last['images_per_second']:.0f} images/s",
                file=sys.stderr, flush=True,
            )  # fmt: skip


def _fill(recipe: Recipe) -> dict[str, str]:
    """What data sets of the user's own need not know of, unless it is chosen."""
    return {} if recipe.fill == Recipe.fill else {"fill": recipe.fill}


class _Loop:
    """Runs the epochs of a trainer and writes their results."""

    def __init__(
        self, trainer: Trainer, run: Run, options: dict[str, Any], save_every: float, shown: bool
    ) -> None:
        self.trainer, self.run, self.options = trainer, run, options
        self.save_every, self.shown = save_every, shown
        self.saved = time.monotonic()

    def save(self, best: bool = False) -> None:
        """Makes the current state the checkpoint, and the best one too if it is."""
        state = self.trainer.state(self.options)
        if best:
            self.run.save(state, BEST)
        self.run.save(state)
        self.saved = time.monotonic()

    def agreed(self, stops: list[int]) -> tuple[int, bool]:
        """A signal that any process received (0 if none), and whether it is time to save."""
        due = time.monotonic() - self.saved >= self.save_every
        total = self.trainer.processes
        if total.world == 1:
            return (stops[0] if stops else 0), due
        number, any_due = total.sums(max(stops, default=0), due and total.rank == 0)
        return int(number), any_due > 0

    def epoch(self, stops: list[int]) -> None:
        """Runs the rest of this epoch.

        Raises:
            Interrupted: a signal came; the state is saved.
        """
        trainer, recipe = self.trainer, self.trainer.recipe
        batches = trainer.batches()
        progress = _Progress(trainer, len(batches), self.shown)
        begin, images = time.perf_counter(), 0
        parts = [trainer.processes.part(batch) for batch in batches[trainer.step :]]
        reader = trainer.images.train_batches(
            parts, recipe.shift, recipe.seed, trainer.epoch, trainer.processes.device,
            **_fill(recipe),
        )  # fmt: skip
        for batch, (x, y) in zip(batches[trainer.step :], reader):
            trainer.train_step(x, y, len(batch))
            images += len(batch)
            progress.step()
            number, due = self.agreed(stops)
            if number or (due and trainer.step < len(batches)):
                self.save()
            if number:
                progress.close(finished=False)
                raise Interrupted(number)
        trainer.finish_epoch(images, time.perf_counter() - begin)
        self.run.note(trainer.metrics)
        *before, now = [epoch["test_accuracy"] for epoch in trainer.metrics]
        self.save(best=now > max(before, default=-1.0))
        progress.close(finished=True)


def fit(
    model: nn.Module,
    images: DataSet,
    recipe: Recipe,
    *,
    device: str = "cpu",
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    extend: bool = False,
    progress: bool = True,
    names: dict[str, Any] | None = None,
    processes: Processes | None = None,
    compile: str | None = None,
    save_every: float = SAVE_EVERY,
    tensorboard: bool = False,
) -> list[dict[str, float]]:
    """Trains, evaluates after each epoch, and writes a run's folder.

    Args:
        model: maps images to logits, or to what its `loss` takes; trained in place.
        images: the data.
        recipe: how to train.
        device: "cpu" or "cuda"; `processes` have their own.
        out: the run's folder (see `models.training.runs`); None writes nothing.
        resume: whether to go on from the checkpoint in `out`.
        extend: whether the recipe has more epochs than the run that goes on; everything else is as
            it was, the milestones too.
        progress: whether to show progress on standard error.
        names: further options that a resumed run must share, such as the model's name.
        processes: the processes that train together; by default this one alone.
        compile: the mode of torch.compile, see `models.training.step.Trainer`.
        save_every: seconds between checkpoints within an epoch.
        tensorboard: whether to write TensorBoard events too.

    Returns:
        One dict per epoch: epoch, lr, train_loss, train_accuracy, test_loss, test_accuracy,
        images_per_second, seconds (of training, without evaluation).

    Raises:
        BlockingIOError: another training is in `out`.
        FileExistsError: `out` holds a checkpoint and `resume` is false.
        FileNotFoundError, ValueError: `resume` is true and `out` holds no checkpoint, or one of a
            run with other options.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
        FloatingPointError: the loss, a weight or the test loss is not finite.
    """
    if not save_every >= 0:
        raise ValueError(f"save_every must be seconds from 0 on, got {save_every}")
    together = processes or Processes(device=device)
    trainer = Trainer(model, images, recipe, together, compile)
    out = None if out is None else Path(out)
    path = None if out is None else out / checkpoint.NAME
    if extend and not resume:
        raise ValueError("extend: a run that goes on is wanted (resume)")
    if extend and recipe.schedule == "cosine":
        raise ValueError("extend: schedule must be steps; a cosine has come to its end")
    if out is not None and out.name == BEST and (out.parent / checkpoint.NAME).exists():
        raise ValueError(f"out: {out} is the best epoch of {out.parent}; choose another folder")
    if path is not None and resume and not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    with Run(out, together, tensorboard) as run:
        held: dict[str, Any] | None = None
        if path is not None and resume:
            held = checkpoint.load(path)
            if extend and isinstance(kept := held["options"].get("milestones"), list):
                recipe = trainer.recipe = replace(recipe, milestones=tuple(kept))
        elif path is not None and path.exists():
            raise FileExistsError(f"{path} exists: resume it, or choose another folder")
        known = {
            "classes": list(images.names),
            **(names or {}),
            "images": images.train_count,
            "preparation": images.preparation and images.preparation.as_dict(),
            **recipe.as_dict(),
        }
        options: dict[str, Any] = json.loads(json.dumps(known))
        if path is not None and held is not None:
            check_options(path, held["options"], options, extend)
            trainer.restore(held, path)
        run.begin(recipe, together.device, held)
        loop = _Loop(trainer, run, options, save_every, progress and together.rank == 0)
        with _stops() as stops:
            while trainer.epoch < recipe.epochs:
                loop.epoch(stops)
        run.draw(str(options.get("name", "")), trainer.metrics)
    return trainer.metrics


def estimate(trainer: Trainer, steps: int = 3) -> float:
    """Seconds that training would take, judged by its first steps, which change the weights."""
    recipe, batches = trainer.recipe, trainer.batches()
    parts = [trainer.processes.part(batch) for batch in batches[: steps + 1]]
    reader = trainer.images.train_batches(
        parts, recipe.shift, recipe.seed, 0, "cpu", **_fill(recipe)
    )
    times = []
    for batch, (x, y) in zip(batches, reader):
        begin = time.perf_counter()
        trainer.train_step(
            x.to(trainer.processes.device), y.to(trainer.processes.device), len(batch)
        )
        times.append(time.perf_counter() - begin)
    one = min(times[1:] or times)  # the first step allocates buffers and builds kernels
    return one * len(batches) * recipe.epochs
