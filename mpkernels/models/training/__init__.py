"""Training: `fit` trains a network by a recipe and resumes exactly."""

from .loop import Interrupted, fit
from .step import evaluate, judge

__all__ = ["Interrupted", "evaluate", "fit", "judge"]
