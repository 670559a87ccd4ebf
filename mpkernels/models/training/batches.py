"""How the images of an epoch are cut into batches."""

from __future__ import annotations

from .recipe import Recipe


def count(images: int, recipe: Recipe, world: int = 1) -> int:
    """The number of batches of an epoch: as few as `batch_size` allows.

    Their sizes differ by one at most, so that none is small: batch norm takes its statistics from
    what a process has of a batch, and few images have thrown trainings off. No image is left out.

    Raises:
        ValueError: a process, or a part of an accumulated batch, would have fewer than two images.
    """
    least = 2 * world
    why = f"two for each of {world} processes" if world > 1 else "two, which batch norm needs"
    if images < least:
        raise ValueError(f"training needs at least {least} images ({why}), got {images}: see limit")
    if recipe.batch_size < least:
        raise ValueError(f"batch_size must be at least {least} ({why}), got {recipe.batch_size}")
    if recipe.batch_size // recipe.accumulate < least:
        raise ValueError(
            f"accumulate must be at most {recipe.batch_size // least} with batch_size "
            f"{recipe.batch_size}: a part has at least {least} images ({why}), "
            f"got {recipe.accumulate}"
        )
    batches = -(-images // recipe.batch_size)
    if images // batches < least:
        raise ValueError(
            f"batch_size must not leave batches of fewer than {least} images ({why}): "
            f"{recipe.batch_size} cuts {images} images into {batches} of "
            f"{images // batches} or one more"
        )
    return batches
