"""Training recipes: the paper's are TOML files in recipes/, which mark what the paper leaves open.

The paper says nothing of weight decay, Nesterov momentum, initialisation, normalisation, or what
fills the places that a shifted image leaves. Assumed: no decay, no Nesterov momentum, PyTorch's
initialisation, pixels normalised by the training set's mean and deviation, and that mean. The
recipes *_keras assume instead what the examples of Keras do, to which its counts of parameters
point; what the paper states is the same in both.
"""

from __future__ import annotations

import difflib
import json
import math
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..data.images import FILLS
from ..networks.registry import list_models, options
from ..networks.starts import LAYER_INITS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "recipes"
SCHEDULES: tuple[str, ...] = ("steps", "cosine")
AMP: tuple[str, ...] = ("off", "bf16", "fp16")
OPTIMIZERS: tuple[str, ...] = ("sgd", "adam")
DECAY_ON: tuple[str, ...] = ("all", "kernels")
# Keys whose values are words.
CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": OPTIMIZERS, "weight_decay_on": DECAY_ON, "layer_init": LAYER_INITS,
    "schedule": SCHEDULES, "fill": tuple(FILLS), "amp": AMP,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """The optimizer, how its learning rate goes from epoch to epoch, and what images undergo.

    Args:
        epochs: passes over the training images.
        batch_size: images per update, over all processes and all accumulated parts.
        learning_rate: the largest learning rate.
        optimizer: "sgd", or "adam", whose betas are PyTorch's.
        momentum: momentum of SGD.
        weight_decay: factor of the weights that is added to their gradients.
        weight_decay_on: "all" parameters, or "kernels": the weights of convolutions alone.
        layer_init: how convolutions and dense layers of a network by name start, see `PathsConfig`.
        schedule: "steps" divides the rate by ten after each milestone, "cosine" lets it fall along
            half a cosine, to 0 after the last epoch.
        milestones: epochs after which "steps" divides the rate.
        warm_up: epochs in which the rate grows to the largest, in equal steps from above 0.
        shift: largest number of pixels by which images shift in both directions.
        fill: what takes the places that a shifted image leaves: the "mean" colour, "black", the
            "nearest" pixel, or the image's reflection ("reflect").
        label_smoothing: label smoothing of the cross-entropy; 0 for networks with their own loss.
        balance: weight of `gates.balance` in the loss, summed over the routers.
        gate_entropy: weight of `gates.entropy` in the loss, summed over the routers; positive makes
            gates decide, negative keeps them even.
        clip: largest total norm of the gradients; 0 does not clip.
        accumulate: parts in which a batch goes through the network. Batch norm sees one part.
        ema: decay of an exponential average of the weights, which evaluation then uses; 0 keeps no
            average.
        amp: dtype of autocast: "off", "bf16", or "fp16" (with a gradient scaler).
        seed: seed of weights, order and augmentation.
    """

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    weight_decay_on: str = "all"
    layer_init: str = "pytorch"
    schedule: str = "steps"
    milestones: tuple[int, ...] = (80, 150)
    warm_up: int = 0
    shift: int = 4
    fill: str = "mean"
    label_smoothing: float = 0.0
    balance: float = 0.0
    gate_entropy: float = 0.0
    clip: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    amp: str = "off"
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.milestones, list):  # as TOML and JSON have them
            object.__setattr__(self, "milestones", tuple(self.milestones))
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            allowed = (int, float) if kind is float else kind
            words = kind.__name__
            right = isinstance(value, allowed) and not isinstance(value, bool)
            if kind is tuple:
                words = "epochs, a list of integers"
                right = right and all(type(epoch) is int for epoch in value)
            if not right:
                raise ValueError(f"{field.name} must be {words}, got {value!r}")
            if kind is float and not abs(value) <= sys.float_info.max:  # NaN is not either
                raise ValueError(f"{field.name} must be finite, got {value}")
        for name in ("epochs", "batch_size", "learning_rate", "accumulate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "warm_up", "shift", "balance", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("momentum", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to below 2^63, got {self.seed}")
        if self.warm_up >= self.epochs:
            raise ValueError(f"warm_up must be below epochs = {self.epochs}, got {self.warm_up}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                known = " or ".join([", ".join(choices[:-1]), choices[-1]])
                raise ValueError(f"{name} must be {known}, got {getattr(self, name)!r}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate = {self.accumulate}, "
                f"got {self.batch_size}"
            )

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch; epochs count from 0."""
        if epoch < self.warm_up:
            return self.learning_rate * (epoch + 1) / (self.warm_up + 1)
        if self.schedule == "cosine":
            share = (epoch - self.warm_up) / (self.epochs - self.warm_up)
            return self.learning_rate * (1 + math.cos(math.pi * share)) / 2
        return self.learning_rate / 10.0 ** sum(epoch >= start for start in self.milestones)

    def with_values(self, **values: Any) -> Recipe:
        """Another recipe. None keeps a value; milestones move with the epochs.

        Raises:
            ValueError: a value is out of range.
        """
        changes = {name: value for name, value in values.items() if value is not None}
        if "epochs" in changes and "milestones" not in changes and changes["epochs"] > 0:
            share = changes["epochs"] / self.epochs
            # However short the training, its first epoch precedes the first milestone.
            changes["milestones"] = tuple(max(1, round(m * share)) for m in self.milestones)
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint stores them."""
        return {**asdict(self), "milestones": list(self.milestones)}

    def as_toml(self) -> str:
        """The text of a file that `read` accepts."""
        # Numbers, strings and lists are the same in JSON and TOML.
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.as_dict().items())


def names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Recipe:
    """Reads a recipe by its name, or from a TOML file.

    Raises:
        ValueError: there is no such recipe, or the file is not one; the message names file and key.
    """
    path = FOLDER / f"{name}.toml" if name in names() else Path(name)
    if not path.is_file():
        raise ValueError(f"recipe must be a file or {_one_of(name, names())}, got {name!r}")
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        kind = "TOML" if isinstance(error, tomllib.TOMLDecodeError) else "in UTF-8"
        raise ValueError(f"recipe: {path} is not {kind}: {error}") from error
    known = [field.name for field in fields(Recipe)]
    for key in values:
        if key not in known:
            raise ValueError(f"recipe: {path}: {key} is not {_one_of(key, known)}")
    try:
        return Recipe(**values)
    except ValueError as error:
        raise ValueError(f"recipe: {path}: {error}") from error


def _one_of(name: str, known: list[str]) -> str:
    """The names that there are, with the one that was meant, if one is near."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"one of {', '.join(known)}{hint}"


def default_name(model_name: str, classes: int | None = None) -> str:
    """The recipe by which the paper trains a network; that of the CNNs if it names none.

    Args:
        model_name: name of the network.
        classes: number of classes of the images; by default the network's own.
    """
    known = options(model_name) if model_name in list_models() else {}
    if known.get("size") == 224:
        return "imagenet_100" if (classes or known["num_classes"]) == 100 else "imagenet"
    is_resnet = any(part in model_name for part in ("resnet", "wrn"))
    return "cifar_resnet" if is_resnet else "cifar_cnn"


def recipe_for(
    model_name: str, recipe: str | None = None, classes: int | None = None, **values: Any
) -> Recipe:
    """The recipe of a network, or the named one, with other values; None keeps a value.

    Args:
        model_name: name of the network.
        recipe: a name or a TOML file; None takes the paper's for the network and its images.
        classes: number of classes of the images.
        values: values that replace the recipe's.

    Raises:
        ValueError: there is no such recipe, or a value is out of range.
    """
    return read(recipe or default_name(model_name, classes)).with_values(**values)
