"""The paper's training recipe, as numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """SGD as the paper trains its CIFAR networks; it states no weight decay, so there is none.

    Args:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: before the first milestone.
        momentum: of SGD.
        milestones: fractions of all epochs after which the rate is divided by ten; the paper's
            80 and 150 of 200, so that a shorter training has the same shape.
        shift: images are shifted by up to so many pixels in both directions.
        seed: of order and augmentation.
        amp: "off", "bf16" or "fp16".
    """

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    milestones: tuple[float, ...] = (80 / 200, 150 / 200)
    shift: int = 4
    seed: int = 0
    amp: str = "off"

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        # However short the training, its first epoch is before the first milestone.
        starts = [max(1, round(self.epochs * fraction)) for fraction in self.milestones]
        passed = sum(epoch >= start for start in starts)
        return self.learning_rate / 10.0**passed

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return {**asdict(self), "milestones": list(self.milestones)}


def recipe_for(model_name: str, **overrides: Any) -> Recipe:
    """The recipe of a network; every BaseCNN has the same one. None leaves a value as it is.

    Raises:
        ValueError: a number is not positive, or amp is unknown.
    """
    recipe = Recipe(**{name: value for name, value in overrides.items() if value is not None})
    for name in ("epochs", "batch_size", "learning_rate"):
        if getattr(recipe, name) <= 0:
            raise ValueError(f"{name} must be positive, got {getattr(recipe, name)}")
    if recipe.amp not in ("off", "bf16", "fp16"):
        raise ValueError(f"amp must be off, bf16 or fp16, got {recipe.amp!r}")
    return recipe
