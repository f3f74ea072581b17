"""The door for tuners, and the little that is common to all: NNI kept quiet, the form checked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from pocketpipe.doors import Door, option_mistakes
from pocketpipe.errors import UserError

SearchSpace = dict[str, dict[str, Any]]
"""NNI's form: `{"name": {"_type": "uniform", "_value": [0.1, 1.0]}}`."""


class Tuner(Protocol):
    """What a search asks of a tuner: the methods of `nni.tuner.Tuner`. Larger values are better."""

    def update_search_space(self, search_space: SearchSpace) -> None:
        """Told once, before the first proposal."""

    def generate_parameters(self, parameter_id: int, **kwargs: Any) -> dict[str, Any]:
        """The next proposal: a value for each key of the space. Raises nni.NoMoreTrialError when there is none."""

    def receive_trial_result(self, parameter_id: int, parameters: dict[str, Any], value: float, **kwargs: Any) -> None:
        """How proposal `parameter_id` did."""

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        """Told after each proposal; success is False if it could not be tried."""

    def import_data(self, data: list[dict[str, Any]]) -> None:
        """Results that others have had: `[{"parameter": {...}, "value": 0.9}]`."""


TUNERS: Door[Callable[..., Tuner]] = Door("tuner", room="pocketpipe.search.tuners")
"""Factories: `build(seed, **options) -> Tuner`; options are keyword-only and annotated."""

_FORM = ("update_search_space", "generate_parameters", "receive_trial_result", "trial_end", "import_data")


def tuner_mistakes(reference: str, options: dict[str, Any], *, where: str) -> list[str]:
    """What is wrong with a choice of tuner, a line each, without building it; `where` is its key path."""
    try:
        factory = TUNERS.resolve(reference)
    except UserError as error:
        return [f"{where}.tuner: {error}"]
    return option_mistakes(factory, options, where=f"{where}.tuner_options")


def build_tuner(reference: str, options: dict[str, Any], *, seed: int, space: SearchSpace) -> Tuner:
    """The tuner, told its space. Raises UserError for an unknown name or an object that is not in NNI's form."""
    quiet_nni()
    tuner = TUNERS.resolve(reference)(seed, **options)
    missing = [method for method in _FORM if not callable(getattr(tuner, method, None))]
    if missing:
        raise UserError(
            f"tuner {reference!r}: {type(tuner).__name__} has no {', '.join(missing)}; "
            "a tuner's factory must return an object in the form of nni.tuner.Tuner"
        )
    tuner.update_search_space(space)
    return tuner


def next_proposal(tuner: Tuner, parameter_id: int) -> dict[str, Any] | None:
    """The tuner's next proposal, or None when it has no more."""
    import nni

    try:
        return tuner.generate_parameters(parameter_id)
    except nni.NoMoreTrialError:
        return None


def quiet_nni() -> None:
    """Keep NNI from printing: importing it puts a handler on stdout, and its tuners log each trial as INFO."""
    import nni

    nni.silence_stdout()
    logging.getLogger("nni").setLevel(logging.WARNING)
