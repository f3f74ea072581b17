"""Tree-structured Parzen estimator, the default tuner."""

from typing import Annotated

from pydantic import Field

from pocketpipe.search.tuners.base import TUNERS, Tuner


@TUNERS.register("tpe")
def build(
    seed: int,
    *,
    startup: Annotated[int, Field(ge=1)] = 5,
    candidates: Annotated[int, Field(ge=1)] = 24,
    gamma: Annotated[float, Field(gt=0)] = 0.5,
) -> Tuner:
    """NNI's TPE (Bergstra 2011, "Algorithms for Hyper-Parameter Optimization").

    The first `startup` proposals are random; then the gamma * sqrt(n) best of n results are modelled as good ones,
    and of `candidates` draws a parameter the one likeliest to be good is proposed.
    """
    from nni.algorithms.hpo.tpe_tuner import TpeTuner

    arguments = {"n_startup_jobs": startup, "n_ei_candidates": candidates, "gamma": gamma}
    tuner: Tuner = TpeTuner(optimize_mode="maximize", seed=seed, tpe_args=arguments)
    return tuner
