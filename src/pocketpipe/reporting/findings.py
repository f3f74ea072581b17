"""Findings: everything a report shows, as values. Nothing here knows how it is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pocketpipe.budget import Budget, Limits
from pocketpipe.evaluation import Evaluation
from pocketpipe.plan import CompressionPlan
from pocketpipe.profile import NetworkProfile
from pocketpipe.record import StageRecord, warnings_of
from pocketpipe.search.trial import Trial


@dataclass(frozen=True)
class Findings:
    """One run, ready to be told. Holds no time, path or run id: a report made from it is compared by hash."""

    title: str
    evaluation: Evaluation
    trials: Sequence[Trial]
    """Empty where the plan was not searched for (a champion's plan taken over, say)."""
    winner_index: int | None
    """`Trial.index` of the trial whose plan was carried out."""
    records: Mapping[str, StageRecord]
    """By stage, in the order in which the stages ran."""
    dense_profile: NetworkProfile
    plan: CompressionPlan
    """That the search chose."""
    carried_out: CompressionPlan
    """Its steps as the student went through them: in stages, each cuts on from what training made of the one before."""
    request: Mapping[str, Any]
    """The user's part of the configuration, with its `budget` section."""
    facts: Mapping[str, str]
    """Digests, versions, seeds: what identifies the run's ingredients."""
    dense_score: float | None
    """Metric of the teacher on the selection split."""
    selection: str
    """Name of the split on which plans were compared."""

    @property
    def higher_is_better(self) -> bool:
        """Direction of the task's metric."""
        return self.evaluation.higher_is_better

    @property
    def winner(self) -> Trial | None:
        """The trial whose plan was carried out, if it came from a search."""
        return next((trial for trial in self.trials if trial.index == self.winner_index), None)

    @cached_property
    def slim_profile(self) -> NetworkProfile:
        """The profile of the network that was delivered, as its plan predicts it."""
        return self.plan.predict(self.dense_profile)

    @property
    def limits(self) -> Limits:
        """The requested budget in absolute terms."""
        return Budget.model_validate(self.request["budget"]).limits(self.evaluation.teacher_cost)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user must be told, each line once, in the order of the stages."""
        return warnings_of(self.records.values())
