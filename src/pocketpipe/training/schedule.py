"""The learning rate as a pure function of the step: nothing to store, nothing to resume."""

from math import cos, pi

from pocketpipe.training.recipe import Recipe

ONE_CYCLE_START = 1 / 25
"""First rate of a one-cycle schedule as a share of its peak (Smith and Topin 2018, as in PyTorch's OneCycleLR)."""


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Rate of training step `step` (0-based, counted over all epochs).

    >>> recipe = Recipe(epochs=2, batch_size=1, learning_rate=1.0, warmup_epochs=1, schedule="cosine")
    >>> [round(learning_rate(recipe, step, steps_per_epoch=4), 2) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    total = recipe.epochs * steps_per_epoch
    warmup = recipe.warmup_epochs * steps_per_epoch
    if recipe.schedule == "cosine":
        share = (step + 1) / warmup if step < warmup else _fall((step - warmup) / (total - warmup))
    elif step < warmup:
        share = ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - _fall(step / warmup))
    else:
        # One step less than `total`: the cycle reaches 0 at the last step, not after it.
        share = _fall((step - warmup) / max(total - 1 - warmup, 1))
    return recipe.learning_rate * min(share, 1.0)


def _fall(progress: float) -> float:
    """Half a cosine from 1 (progress 0) to 0 (progress 1)."""
    return 0.5 * (1 + cos(pi * progress))
