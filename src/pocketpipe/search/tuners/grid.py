"""Grid search: the middle of every range first, then ever finer grids."""

from pocketpipe.search.tuners.base import TUNERS, Tuner


@TUNERS.register("grid")
def build(seed: int) -> Tuner:
    """NNI's grid search; it draws nothing, so `seed` has no effect. Only sensible for a handful of parameters."""
    from nni.algorithms.hpo.gridsearch_tuner import GridSearchTuner

    tuner: Tuner = GridSearchTuner()
    return tuner
