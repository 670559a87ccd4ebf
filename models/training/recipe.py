"""Training recipes: the paper's as TOML files in recipes/, each with what it leaves open.

Stated nowhere in the paper, and so assumed everywhere: no weight decay, no Nesterov momentum,
PyTorch's initialisation, pixels normalised by the training set's mean and deviation.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..networks.registry import list_models, options

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum, whose rate is divided by ten after each milestone.

    Args:
        epochs: passes over the training images.
        batch_size: images an update, on all processes and over all accumulated parts together.
        learning_rate: before the first milestone.
        momentum: of SGD.
        weight_decay: of SGD.
        milestones: epochs after which the rate is divided by ten.
        shift: images are shifted by up to so many pixels in both directions.
        label_smoothing: of the cross-entropy; 0 for networks with a loss of their own.
        clip: largest norm of all gradients together; 0 does not clip.
        accumulate: parts in which a batch goes through the network. Batch norm sees a part.
        ema: decay of an exponential average of the weights, which is then what is evaluated; 0
            keeps none.
        amp: "off", "bf16" or "fp16", the dtype of autocast; with a scaler for fp16.
        seed: of weights, order and augmentation.
    """

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = (80, 150)
    shift: int = 4
    label_smoothing: float = 0.0
    clip: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    amp: str = "off"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "accumulate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "shift", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("momentum", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        if self.amp not in ("off", "bf16", "fp16"):
            raise ValueError(f"amp must be off, bf16 or fp16, got {self.amp!r}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate = {self.accumulate}, "
                f"got {self.batch_size}"
            )

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.learning_rate / 10.0 ** sum(epoch >= start for start in self.milestones)

    def with_values(self, **values: Any) -> Recipe:
        """Another recipe; None leaves a value as it is, milestones move with the epochs.

        Raises:
            ValueError: a value is not one that it can have.
        """
        given = {name: value for name, value in values.items() if value is not None}
        if "epochs" in given and "milestones" not in given and given["epochs"] > 0:
            share = given["epochs"] / self.epochs
            # However short the training, its first epoch is before the first milestone.
            given["milestones"] = tuple(max(1, round(m * share)) for m in self.milestones)
        return replace(self, **given)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return {**asdict(self), "milestones": list(self.milestones)}

    def as_toml(self) -> str:
        """A file that `read` reads."""
        # JSON's numbers, strings and lists are TOML's.
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.as_dict().items())


def names() -> list[str]:
    """The recipes that are there."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Recipe:
    """A recipe by its name, or from a TOML file.

    Raises:
        ValueError: there is none, or the file is not one; the message names file and key.
    """
    path = FOLDER / f"{name}.toml" if name in names() else Path(name)
    if not path.is_file():
        raise ValueError(f"recipe must be a file or one of {', '.join(names())}, got {name!r}")
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe: {path} is not TOML: {error}") from error
    known = {field.name: field.default for field in fields(Recipe)}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"recipe: {path}: {key} is none of {', '.join(known)}")
        wanted = (int, float) if type(known[key]) is float else type(known[key])
        if key == "milestones":
            right = isinstance(value, list) and all(type(epoch) is int for epoch in value)
        else:
            right = isinstance(value, wanted) and not isinstance(value, bool)
        if not right:
            kind = (
                "epochs, a list of integers" if key == "milestones" else type(known[key]).__name__
            )
            raise ValueError(f"recipe: {path}: {key} must be {kind}, got {value!r}")
    if "milestones" in values:
        values["milestones"] = tuple(values["milestones"])
    try:
        return Recipe(**values)
    except ValueError as error:
        raise ValueError(f"recipe: {path}: {error}") from error


def default_name(model_name: str, classes: int | None = None) -> str:
    """The recipe with which the paper trains a network; that of the CNNs if it has none.

    Args:
        model_name: the network.
        classes: of the images; those that the network has by itself if not given.
    """
    known = options(model_name) if model_name in list_models() else {}
    if known.get("size") == 224:
        return "imagenet_100" if (classes or known["num_classes"]) == 100 else "imagenet"
    is_resnet = any(part in model_name for part in ("resnet", "wrn"))
    return "cifar_resnet" if is_resnet else "cifar_cnn"


def recipe_for(
    model_name: str, recipe: str | None = None, classes: int | None = None, **values: Any
) -> Recipe:
    """The recipe of a network, or the named one, with other values; None leaves a value as it is.

    Args:
        model_name: the network.
        recipe: a name or a TOML file; None is the paper's for the network and its images.
        classes: of the images.
        values: of the recipe.

    Raises:
        ValueError: there is no such recipe, or a value is not one that it can have.
    """
    return read(recipe or default_name(model_name, classes)).with_values(**values)
