"""Naive evolution with randomness of its own."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pocketpipe.search.tuners.base import TUNERS, SearchSpace, Tuner


@TUNERS.register("evolution")
def build(seed: int, *, population: Annotated[int, Field(ge=2)] = 8) -> Tuner:
    """NNI's evolution tuner (Real 2017, "Large-Scale Evolution of Image Classifiers").

    `population` random plans first; then the better of two random ones is changed in one parameter and replaces
    the worse.
    """
    return SeededEvolution(seed, population)


class SeededEvolution:
    """NNI's EvolutionTuner takes no seed: it draws from `random` and from an unseeded RandomState.

    Here it gets a seeded RandomState, and while it works the state of `random` is its own and is put back after.
    """

    def __init__(self, seed: int, population: int) -> None:
        from nni.algorithms.hpo.evolution_tuner import EvolutionTuner

        self._tuner = EvolutionTuner(optimize_mode="maximize", population_size=population)
        self._seed = seed
        self._random_state = random.Random(seed).getstate()

    def update_search_space(self, search_space: SearchSpace) -> None:
        """Set the space and draw the first population."""
        with self._own_randomness():
            self._tuner.update_search_space(search_space)
        # NNI has just drawn a population from an unseeded state; draw it again from ours.
        self._tuner.random_state = np.random.RandomState(self._seed % 2**32)  # NumPy takes no larger one
        self._tuner.population = []
        for _ in range(self._tuner.population_size):
            self._tuner._random_generate_individual()

    def generate_parameters(self, parameter_id: int, **kwargs: Any) -> dict[str, Any]:
        """The next individual of the first population, or a mutation of a good one."""
        with self._own_randomness():
            proposal: dict[str, Any] = self._tuner.generate_parameters(parameter_id)
        return proposal

    def receive_trial_result(self, parameter_id: int, parameters: dict[str, Any], value: float, **kwargs: Any) -> None:
        """Put the individual into the population, with its fitness."""
        self._tuner.receive_trial_result(parameter_id, parameters, value)

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        """A failed individual is replaced by a random one."""
        with self._own_randomness():
            self._tuner.trial_end(parameter_id, success)

    def import_data(self, data: list[dict[str, Any]]) -> None:
        """Add individuals with known fitness; NNI's own tuner ignores them."""
        from nni.algorithms.hpo.evolution_tuner import Individual

        for entry in data:
            config = {key: self._with_index(key, value) for key, value in entry["parameter"].items()}
            self._tuner.population.append(Individual(config=config, result=entry["value"]))

    def _with_index(self, key: str, value: Any) -> Any:
        spec = self._tuner.searchspace_json[key]
        if spec["_type"] != "choice":
            return value
        return {"_index": spec["_value"].index(value), "_value": value}

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        outer = random.getstate()
        random.setstate(self._random_state)
        try:
            yield
        finally:
            self._random_state = random.getstate()
            random.setstate(outer)
