"""Trial: one plan that was tried, and how it did."""

from typing import Literal

from pocketpipe.cost import Cost
from pocketpipe.doors import Value
from pocketpipe.plan import CompressionPlan

Origin = Literal["tuner", "uniform", "informed", "champion", "random", "ladder"]
"""Who proposed it: the tuner; weights and data (informed); the champion of a retraining, whose plan it has; controls of
equal budget (uniform, random); a ladder of plans that relax the budget step by step."""


class Trial(Value):
    """A pinned plan with its predicted cost and its metric on the selection split."""

    index: int
    origin: Origin
    plan_json: str
    cost: Cost
    speedup: float
    """Predicted, against the dense network."""
    compression: float
    score: float
    """Metric on the selection split, BatchNorm re-estimated, before any training."""
    tuned_score: float | None = None
    """The same after the short fine-tuning that the best trials get."""
    seconds: float
    """Wall time of scoring; 0 where the score was taken over from an earlier trial."""
    same_as: int | None = None
    """Index of the earlier trial with this very plan, whose score was taken over."""

    @property
    def last_score(self) -> float:
        """After the short fine-tuning, if it got one."""
        return self.score if self.tuned_score is None else self.tuned_score

    @property
    def plan(self) -> CompressionPlan:
        """The plan as a value."""
        return CompressionPlan.from_json(self.plan_json)
