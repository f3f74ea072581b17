"""Have given weights seen the data that plans are to be chosen on? Told from their metric on each split."""

from collections.abc import Mapping
from math import sqrt
from typing import Literal

from pocketpipe.doors import Value

Status = Literal["unseen", "memorized", "looks memorized", "not judged"]

STANDARD_ERRORS = 3.0
"""A difference counts if it is larger than this many standard errors (by chance: once in 700)."""
NEARLY_PERFECT = 0.99
"""From here on a metric on training data means that the examples themselves may be known by heart."""


class Contamination(Value):
    """What was found, with the figures it rests on.

    >>> found = contamination(0.998, 0.998, 0.9173, {"train": 5000, "val": 5000, "holdout": 5000})
    >>> found.status
    'memorized'
    >>> contamination(0.99, 0.92, None, {"train": 5000, "val": 5000}).warnings
    ()
    """

    status: Status
    train: float
    val: float
    holdout: float | None = None
    warnings: tuple[str, ...] = ()
    """What the user must be told, a line each."""

    @property
    def suspicious(self) -> bool:
        """Whether figures on val are not to be trusted."""
        return self.status in ("memorized", "looks memorized")


def contamination(
    train_metric: float,
    val_metric: float,
    holdout_metric: float | None,
    sizes: Mapping[str, int],
    *,
    higher_is_better: bool = True,
) -> Contamination:
    """Judge weights that a user brings, by their metric (a share) on each split.

    sizes: number of examples measured, by split: train, val, holdout.

    With a hold-out: val is *memorized* if the weights do better on it, by more than three standard errors,
    than on data they have not seen. Without one, this cannot be known. Val *looks memorized* if the weights are
    nearly perfect on train and no worse on val, as far as its size can tell; so does an easy task that was
    learned honestly, and the warning says so. A metric that is no share of examples is *not judged*, nor one of which
    less is better.
    """

    def judged(status: Status, *warnings: str) -> Contamination:
        return Contamination(
            status=status, train=train_metric, val=val_metric, holdout=holdout_metric, warnings=warnings
        )

    if not higher_is_better or not all(
        0.0 <= value <= 1.0 for value in (train_metric, val_metric, holdout_metric or 0.0)
    ):
        return judged(
            "not judged",
            "weights were given; whether they have seen val can only be told from a metric that is a share of examples "
            "(0..1), higher being better",
        )
    if holdout_metric is not None:
        error = error_of_difference(val_metric, sizes["val"], holdout_metric, sizes["holdout"])
        if val_metric - holdout_metric <= STANDARD_ERRORS * error:
            return judged("unseen")
        return judged(
            "memorized",
            f"the given weights have memorized val: right on {val_metric:.2%} of it, but on {holdout_metric:.2%} of "
            "the hold-out; plans are chosen on the hold-out, figures on val are too good",
        )
    error = error_of_difference(train_metric, sizes["train"], val_metric, sizes["val"])
    if train_metric < NEARLY_PERFECT or train_metric - val_metric > STANDARD_ERRORS * error:
        return judged("unseen")
    return judged(
        "looks memorized",
        f"val looks memorized by the given weights (right on {train_metric:.2%} of train, {val_metric:.2%} of val): "
        "plans would be chosen on known images and the real loss be hidden, unless the task is just easy; "
        "name task.holdout to know (a task with splits of its own returns a hold-out from load)",
    )


def error_of_difference(first: float, first_size: int, second: float, second_size: int) -> float:
    """Standard error of the difference of two shares.

    Two successes and two failures are added to each (Agresti and Coull 1998), so that 100 % is not taken for certain.
    """
    variance = 0.0
    for share, size in ((first, first_size), (second, second_size)):
        adjusted = (share * size + 2) / (size + 4)
        variance += adjusted * (1 - adjusted) / (size + 4)
    return sqrt(variance)
