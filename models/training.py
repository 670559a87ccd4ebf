"""The training loop: exact to resume, safe to interrupt.

Nothing random is kept between steps: the order of an epoch follows from (seed, epoch), the
augmentation of an image from (seed, epoch, image). A checkpoint therefore holds weights, optimizer,
scaler and the place, and a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from models import checkpoint
from models.augment import seeded
from models.data import DataSet
from models.recipe import Recipe


class Interrupted(KeyboardInterrupt):
    """Training stopped on request after its state was saved."""


def judge(model: nn.Module, output: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss of a batch and its logits, whatever the network returns.

    A network with a loss of its own has a method `loss(output, target)`; the others have
    cross-entropy.

    Args:
        model: the network, in training or evaluation mode, in which its loss may differ.
        output: what `model(x)` returned: logits [B, num_classes], or a tuple that starts with
            them (or with other scores whose largest is the predicted class).
        y: labels [B].

    Returns:
        the loss, a scalar, and the logits.
    """
    logits = output if isinstance(output, Tensor) else output[0]
    own = getattr(model, "loss", None)
    return cross_entropy(logits.float(), y) if own is None else own(output, y), logits


def evaluate(
    model: nn.Module, images: DataSet, device: str = "cpu", batch_size: int = 512
) -> tuple[float, float]:
    """Mean loss and accuracy (0 to 1) on the test set; leaves the model in training mode."""
    model.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for x, y in images.test_batches(torch.arange(images.test_count).split(batch_size), device):
            mean, logits = judge(model, model(x), y)
            loss += mean.item() * len(y)
            right += int((logits.argmax(1) == y).sum())
    model.train()
    return loss / images.test_count, right / images.test_count


class Trainer:
    """A model with its optimizer and its place in the training."""

    def __init__(self, model: nn.Module, images: DataSet, recipe: Recipe, device: str) -> None:
        self.model, self.images, self.recipe = model.to(device).train(), images, recipe
        self.device = device
        self.optimizer = torch.optim.SGD(
            model.parameters(), recipe.learning_rate, momentum=recipe.momentum
        )
        self.scaler = torch.amp.GradScaler(device, enabled=recipe.amp == "fp16")
        self.epoch = self.step = self.right = self.seen = 0
        self.loss = 0.0
        self.metrics: list[dict[str, float]] = []

    def batches(self) -> list[Tensor]:
        """Indices of this epoch's batches; a last batch of one image is left out (batch norm)."""
        generator = seeded(self.recipe.seed, self.epoch)
        order = torch.randperm(self.images.train_count, generator=generator)
        return [part for part in order.split(self.recipe.batch_size) if len(part) > 1]

    def train_step(self, x: Tensor, y: Tensor) -> None:
        """One batch: forward, backward, update.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        recipe = self.recipe
        dtype = torch.float16 if recipe.amp == "fp16" else torch.bfloat16
        with torch.autocast(self.device, dtype, enabled=recipe.amp != "off"):
            output = self.model(x)
        loss, logits = judge(self.model, output, y)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} in epoch {self.epoch}, step {self.step}: try a lower --lr"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.epoch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.seen += len(y)
        self.loss += value * len(y)
        self.right += int((logits.argmax(1) == y).sum())

    def state(self, options: dict[str, Any]) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "options": options,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "place": [self.epoch, self.step, self.right, self.seen],
            "loss": self.loss,
            "metrics": self.metrics,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.right, self.seen = state["place"]
        self.loss, self.metrics = state["loss"], state["metrics"]

    def finish_epoch(self, images: int, seconds: float) -> None:
        """Evaluates, notes the metrics, goes to the next epoch; the speed is that of `images`."""
        test_loss, test_accuracy = evaluate(self.model, self.images, self.device)
        self.metrics.append(
            {
                "epoch": self.epoch + 1,
                "lr": self.recipe.rate(self.epoch),
                "train_loss": self.loss / self.seen,
                "train_accuracy": self.right / self.seen,
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "images_per_second": images / seconds,
                "seconds": seconds,
            }
        )
        self.epoch, self.step, self.right, self.seen, self.loss = self.epoch + 1, 0, 0, 0, 0.0


def fit(
    model: nn.Module,
    images: DataSet,
    recipe: Recipe,
    *,
    device: str = "cpu",
    out: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    names: dict[str, Any] | None = None,
) -> list[dict[str, float]]:
    """Trains, evaluates after each epoch, and keeps checkpoint and metrics in `out`.

    Args:
        model: maps [B, 3, 32, 32] to logits, or to what its `loss` takes; trained in place.
        images: the data.
        recipe: the numbers.
        device: "cpu" or "cuda".
        out: folder for checkpoint.pt and metrics.jsonl; nothing is written without one.
        resume: go on from the checkpoint in `out`.
        progress: draw a progress bar.
        names: further options that a resumed run must share, such as the model's name.

    Returns:
        One dict an epoch: epoch, lr, train_loss, train_accuracy, test_loss, test_accuracy,
        images_per_second, seconds (of training, without evaluation).

    Raises:
        FileExistsError: `out` holds a checkpoint and `resume` is false.
        FileNotFoundError, ValueError: it does not, or was made with other options.
        Interrupted: Ctrl-C; the state is saved.
        FloatingPointError: the loss is not finite.
    """
    options = {**(names or {}), "images": images.train_count, **recipe.as_dict()}
    trainer = Trainer(model, images, recipe, device)
    path = None if out is None else out / "checkpoint.pt"
    if path is not None and resume:
        trainer.restore(checkpoint.load(path, options))
    elif path is not None and path.exists():
        raise FileExistsError(f"{path} exists: resume it, or choose another folder")

    def save() -> None:
        if path is not None and out is not None:
            checkpoint.write_lines(out / "metrics.jsonl", trainer.metrics)
            checkpoint.save(path, trainer.state(options))

    stop: list[int] = []

    def request(number: int, frame: FrameType | None) -> None:
        stop.append(number)

    previous = signal.signal(signal.SIGINT, request)
    try:
        while trainer.epoch < recipe.epochs:
            _run_epoch(trainer, progress, stop)
            if stop:
                save()
                raise Interrupted
            save()
    finally:
        signal.signal(signal.SIGINT, previous)
    return trainer.metrics


def _run_epoch(trainer: Trainer, progress: bool, stop: list[int]) -> None:
    batches, first = trainer.batches(), trainer.step
    total = sum(len(part) for part in batches)
    title = f"epoch {trainer.epoch + 1}/{trainer.recipe.epochs}"
    seen = trainer.seen
    begin = time.perf_counter()
    with tqdm(total=total, initial=seen, desc=title, unit="img", disable=not progress) as bar:
        recipe = trainer.recipe
        for x, y in trainer.images.train_batches(
            batches[first:], recipe.shift, recipe.seed, trainer.epoch, trainer.device
        ):
            trainer.train_step(x, y)
            bar.update(len(y))
            bar.set_postfix(
                loss=f"{trainer.loss / trainer.seen:.3f}",
                accuracy=f"{100 * trainer.right / trainer.seen:.1f}%",
            )
            if stop and trainer.step < len(batches):
                return
    trainer.finish_epoch(trainer.seen - seen, time.perf_counter() - begin)
    if progress:
        last = trainer.metrics[-1]
        tqdm.write(
            f"{title}: test loss {last['test_loss']:.4f}, test accuracy "
            f"{100 * last['test_accuracy']:.2f}%, {last['images_per_second']:.0f} images/s"
        )
