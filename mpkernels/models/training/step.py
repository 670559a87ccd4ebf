"""A network with its optimizer and its position in the training, and the step it takes.

No random state is kept between steps: the order of an epoch depends on (seed, epoch), the
augmentation of an image on (seed, epoch, image), and anything random in the network on (seed,
epoch, step, process). So a checkpoint holds weights, optimizer, scaler and position, and a resumed
run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..data import DataSet
from ..data.images import seeded
from . import batches, parallel
from .gates import Statistics, balance, entropy, figures, gives_gates, warn_of_deaths, watch
from .nonfinite import broken, culprit
from .optimizers import optimizer_of
from .parallel import ALONE, Processes
from .recipe import Recipe

COMPILE_MODES = ("default", "reduce-overhead")


def logits_of(output: Any) -> Tensor:
    """The logits [B, num_classes] of what a network returns: they, or a tuple that begins so.

    Raises:
        TypeError: it returns something else.
    """
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(first, Tensor):
        raise TypeError(
            "the network must return logits [B, num_classes], or a tuple that begins with them, "
            f"got {type(output).__name__}"
        )
    return first


def judge(
    model: nn.Module, output: Any, y: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The mean loss of a batch and its logits, whatever the network returns.

    A network with its own loss has a method `loss(output, target)`; for others it is
    cross-entropy.

    Args:
        model: the network, in training or evaluation mode; its loss may depend on the mode.
        output: what `model(x)` returned: logits [B, num_classes], or a tuple that starts with
            them (or with other scores whose largest is the predicted class).
        y: labels [B].
        label_smoothing: label smoothing of the cross-entropy.

    Returns:
        the loss, a scalar, and the logits.
    """
    logits = logits_of(output)
    own = getattr(model, "loss", None)
    if own is not None:
        return own(output, y), logits
    return cross_entropy(logits.float(), y, label_smoothing=label_smoothing), logits


def evaluate(
    model: nn.Module,
    images: DataSet,
    processes: Processes = ALONE,
    batch_size: int = 512,
) -> tuple[float, float, dict[str, Statistics]]:
    """Mean loss and accuracy (0 to 1) on the test set, and what its gates were.

    The model's mode stays as it was.

    Raises:
        FloatingPointError: the loss is not finite; the message says where that began.
    """
    mode = model.training
    model.eval()
    processes.same_buffers(model)
    loss, right = 0.0, 0
    suspect: tuple[Tensor, Tensor] | None = None
    # Every process runs equally many batches: those with sharded weights wait for each other.
    count = math.ceil(images.test_count / (batch_size * processes.world))
    batches = torch.arange(images.test_count).tensor_split(count)
    parts = [processes.part(batch) for batch in batches]
    with torch.no_grad(), watch(model) as gates:
        for x, y in images.test_batches(parts, processes.device):
            mean, logits = judge(model, model(x), y)
            if math.isfinite(loss):
                suspect = x, y  # ends as the first batch whose loss is not finite, if there is one
            loss += mean.item() * len(y)
            right += int((logits.argmax(1) == y).sum())
    loss, correct = processes.sums(loss, right)
    if suspect is not None and not math.isfinite(loss):
        x, y = suspect
        place = culprit(model, x, lambda x: judge(model, model(x), y)[0])
        raise FloatingPointError(f"the test loss is not finite: {_first(processes.gather(place))}")
    model.train(mode)
    for of_router in gates.values():
        of_router.gather(processes)
    return loss / images.test_count, correct / images.test_count, gates


def _first(places: list[str | None]) -> str:
    """The first place that a process found."""
    return next(filter(None, places), "all layers are finite")


class Trainer:
    """A model in training.

    Args:
        model: maps images to logits, or to what its `loss` takes; trained in place.
        images: the data.
        recipe: how to train.
        processes: the processes that train together.
        compile: mode of torch.compile, one of `COMPILE_MODES`; "reduce-overhead" replays the
            network as CUDA graphs. None does not compile.

    Raises:
        ValueError: the recipe does not fit the network, the images or the processes.
    """

    def __init__(
        self,
        model: nn.Module,
        images: DataSet,
        recipe: Recipe,
        processes: Processes = ALONE,
        compile: str | None = None,
    ) -> None:
        if recipe.label_smoothing and hasattr(model, "loss"):
            raise ValueError("label_smoothing must be 0: the network has a loss of its own")
        self.weighs_gates = recipe.balance != 0 or recipe.gate_entropy != 0
        if self.weighs_gates and not gives_gates(model):
            raise ValueError("balance and gate_entropy must be 0: the network returns no gates")
        if recipe.ema and processes.kind == "fsdp":
            raise ValueError("ema must be 0 where the weights are spread (parallel fsdp)")
        if images.test_count < processes.world:
            raise ValueError(f"each process needs a test image, got {images.test_count} in all")
        self.cut = batches.count(images.train_count, recipe, processes.world)
        self.images, self.recipe, self.processes = images, recipe, processes
        self.bare = model.to(processes.device).train()
        self.model = processes.wrap(self.bare)
        self.run = torch.compile(self.model, mode=compile) if compile else self.model
        self.average: AveragedModel | None = None
        if recipe.ema:
            decay = get_ema_multi_avg_fn(recipe.ema)
            self.average = AveragedModel(self.bare, multi_avg_fn=decay, use_buffers=True)
        self.infinite = {name for name in broken(self._held()) if "buffer" in name}
        self.optimizer = optimizer_of(self.model, recipe)
        kind = processes.device.partition(":")[0]
        self.scaler = torch.amp.GradScaler(kind, enabled=recipe.amp == "fp16")
        self.epoch = self.step = 0
        self.right = self.seen = self.loss = 0.0
        self.metrics: list[dict[str, float]] = []

    def batches(self) -> list[Tensor]:
        """Indices of this epoch's batches."""
        generator = seeded(self.recipe.seed, self.epoch)
        order = torch.randperm(self.images.train_count, generator=generator)
        return list(order.tensor_split(self.cut))

    def _loss(self, x: Tensor, y: Tensor, run: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        """The mean loss of part of a batch, and its logits."""
        dtype = torch.float16 if self.recipe.amp == "fp16" else torch.bfloat16
        kind = self.processes.device.partition(":")[0]
        with torch.autocast(kind, dtype, enabled=self.recipe.amp != "off"):
            output = run(x, return_gates=True) if self.weighs_gates else run(x)
        loss, logits = judge(self.bare, output, y, self.recipe.label_smoothing)
        for gates in output[1] if self.weighs_gates else ():
            loss = loss + self.recipe.balance * balance(gates)
            loss = loss + self.recipe.gate_entropy * entropy(gates)
        return loss, logits

    def train_step(self, x: Tensor, y: Tensor, whole: int) -> None:
        """One update from this process's part of a batch of `whole` images.

        Raises:
            FloatingPointError: the loss or a gradient is not finite; the message says where that
                began. The weights are unchanged.
        """
        recipe, world = self.recipe, self.processes.world
        torch.manual_seed(
            seeded(recipe.seed, self.epoch, self.step, self.processes.rank).initial_seed()
        )
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.epoch)
        self.optimizer.zero_grad(set_to_none=True)
        # A part has at least two images, for batch norm; all processes have equally many parts.
        count = max(1, min(recipe.accumulate, whole // (2 * world)))
        parts = list(zip(x.tensor_split(count), y.tensor_split(count)))
        sums = torch.zeros(2, dtype=torch.float64, device=x.device)  # of losses and of hits
        for at, (some_x, some_y) in enumerate(parts):
            with parallel.without_sync(self.model, at + 1 == count):
                loss, logits = self._loss(some_x, some_y, self.run)
                # Gradients are averaged over processes, whose parts may have different sizes.
                self.scaler.scale(loss * (len(some_y) / whole * world)).backward()
            sums[0] += loss.detach().double() * len(some_y)
            sums[1] += (logits.argmax(1) == some_y).sum()
        self.scaler.unscale_(self.optimizer)
        norm = parallel.clip(self.model, recipe.clip or math.inf)
        loss_sum, right, length = torch.cat([sums, norm.double().view(1)]).tolist()
        # The scaler of fp16 skips a step whose gradients are too large, and halves its scale. At 1
        # they are too large by themselves. Without a scaler the scale is 1.
        too_large = not math.isfinite(length) and self.scaler.get_scale() <= 1
        if any(self.processes.sums(too_large or not math.isfinite(loss_sum))):
            self._stop(loss_sum, parts)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.bare)
        self.loss += loss_sum
        self.right += right
        self.seen += len(y)
        self.step += 1

    def _stop(self, value: float, parts: list[tuple[Tensor, Tensor]]) -> None:
        """Raises the same FloatingPointError in all processes; `value` is this one's loss."""
        places = [culprit(self.bare, x, partial(self._mean_loss, y)) for x, y in parts]
        reports = self.processes.gather((math.isfinite(value), next(filter(None, places), None)))
        what = "gradient" if all(finite for finite, _ in reports) else "loss"
        raise FloatingPointError(
            f"the {what} is not finite in epoch {self.epoch}, step {self.step}: "
            f"{_first([place for _, place in reports])}; try a lower --lr"
        )

    def _check(self) -> None:
        """Raises the same FloatingPointError in all processes if the state is not finite.

        A buffer that was not when training began, such as a mask, may stay so.
        """
        found = broken(self._held())
        names = [name for part in self.processes.gather(found) for name in part]
        if name := next((name for name in names if name not in self.infinite), None):
            raise FloatingPointError(
                f"after step {self.step} of epoch {self.epoch} the {name} is not finite; "
                "try a lower --lr"
            )

    def _held(self) -> Iterator[tuple[str, Tensor]]:
        models = [self.bare] if self.average is None else [self.bare, self.average.module]
        for of, model in zip(("", "average of the "), models):
            yield from ((f"{of}parameter {name}", p) for name, p in model.named_parameters())
            yield from ((f"{of}buffer {name}", b) for name, b in model.named_buffers())

    def _mean_loss(self, y: Tensor, x: Tensor) -> Tensor:
        return self._loss(x, y, self.bare)[0]

    def state(self, options: dict[str, Any]) -> dict[str, Any]:
        """What a resumed run needs; all processes must call it.

        Raises:
            FloatingPointError: a weight is not finite, so that this is no state to go on from.
        """
        self._check()
        seen = self.processes.sums(self.loss, self.right, self.seen)
        return {
            "options": options,
            **parallel.state_of(self.model, self.optimizer),
            "average": None if self.average is None else self.average.module.state_dict(),
            "scaler": self.scaler.state_dict(),
            "place": [self.epoch, self.step],
            "seen": seen,
            "metrics": self.metrics,
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Goes on where `state` was taken.

        Raises:
            ValueError: it does not fit the network; the message names `path`, its file.
        """
        if not state["run"]:
            raise ValueError(
                f"resume: {path} is of an earlier version, which cut batches in another way; "
                "--pretrained takes its weights"
            )
        self.epoch, self.step = state["place"]
        # These are sums over all processes and must be counted once.
        first = self.processes.rank == 0
        self.loss, self.right, self.seen = state["seen"] if first else (0.0, 0.0, 0.0)
        self.metrics = state["metrics"]
        if self.step > self.cut or (self.step > 0) != (state["seen"][2] > 0):
            raise ValueError(f"resume: {path}: place {state['place']} is none of {self.cut} steps")
        try:
            # With several processes torch does not complain of keys that are missing.
            missing = self.bare.state_dict().keys() - state["model"].keys()
            if missing:
                raise RuntimeError(f"Missing key(s): {', '.join(sorted(missing))}")
            parallel.restore(self.model, self.optimizer, state)
            if self.average is not None:
                self.average.module.load_state_dict(state["average"])
                self.average.n_averaged.fill_(1)
            self.scaler.load_state_dict(state["scaler"])
            for parameter, values in self.optimizer.state.items():
                for name, value in values.items():
                    shape = () if name == "step" else parameter.shape  # Adam counts its steps
                    if isinstance(value, Tensor) and value.shape != shape:
                        raise RuntimeError(f"{name} of shape {[*value.shape]}")
        except (RuntimeError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"resume: {path} does not fit the network: {error}") from error

    def finish_epoch(self, images: float, seconds: float) -> None:
        """Evaluates, records the metrics (speed is `images` per `seconds`) and ends the epoch.

        Raises:
            FloatingPointError: a weight or the test loss is not finite.
        """
        self._check()
        loss, right, seen = self.processes.sums(self.loss, self.right, self.seen)
        judged = self.bare if self.average is None else self.average.module
        try:
            test_loss, test_accuracy, gates = evaluate(judged, self.images, self.processes)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"after epoch {self.epoch} {error}; try a lower --lr"
            ) from error
        self.metrics.append(
            {
                "epoch": self.epoch + 1,
                "lr": self.recipe.rate(self.epoch),
                "train_loss": loss / seen,
                "train_accuracy": right / seen,
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "images_per_second": images / seconds,
                "seconds": seconds,
                **figures(gates),
            }
        )
        if self.processes.rank == 0:
            warn_of_deaths(self.metrics)
        self.epoch, self.step = self.epoch + 1, 0
        self.right = self.seen = self.loss = 0.0
