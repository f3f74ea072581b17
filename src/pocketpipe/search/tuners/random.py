"""Independent random proposals."""

from pocketpipe.search.tuners.base import TUNERS, Tuner


@TUNERS.register("random")
def build(seed: int) -> Tuner:
    """NNI's random tuner: each parameter drawn from its own distribution, results ignored."""
    from nni.algorithms.hpo.random_tuner import RandomTuner

    tuner: Tuner = RandomTuner(seed=seed)
    return tuner
