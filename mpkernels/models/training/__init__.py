"""Training: `fit` trains a network by a recipe and resumes exactly."""

from .loop import Interrupted, fit
from .recipe import Recipe
from .step import evaluate, judge

__all__ = ["Interrupted", "Recipe", "evaluate", "fit", "judge"]
