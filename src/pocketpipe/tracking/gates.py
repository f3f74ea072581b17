"""Gates: whether a new student may take the champion's place. Pure decisions, paired on the same examples."""

from math import fsum, isfinite

from pydantic import Field

from pocketpipe.doors import Value
from pocketpipe.evaluation import Evaluation, gains, sign_test
from pocketpipe.reporting.numbers import difference_text, metric_text
from pocketpipe.tracking.entries import text

LONGEST_LIST = 200
"""Characters of a list of classes, of which there may be thousands."""
ROUNDING = 1e-12
"""A difference that equals the margin in decimal must not fail by a float's last bit."""


class GateSettings(Value):
    """How much worse than the champion is still "not worse".

    >>> GateSettings().margin
    0.005
    """

    margin: float = Field(default=0.005, allow_inf_nan=False)
    """Allowed mean paired loss on the same examples, in the metric's unit; below 0, the gain that is asked."""
    model: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    """Name in the model registry; null = made from task and network."""
    max_metric_fall: float = Field(default=0.05, ge=0)
    """Allowed loss of the metric against the champion's own record, each on its own test data.

    Catches broken data (shuffled labels), on which champion and newcomer are equally bad.
    """


class Decision(Value):
    """Whether to promote, and everything that was weighed, a line each."""

    promote: bool
    reasons: tuple[str, ...]


class Promotion(Value):
    """What became of a registered version."""

    name: str
    version: str
    promoted: bool
    reasons: tuple[str, ...]
    content: str = ""
    """Digest of the version's files."""
    against: str | None = None
    """Version of the champion that it was weighed against."""

    def __str__(self) -> str:
        outcome = "champion" if self.promoted else "challenger, not champion"
        return f"{self.name} version {self.version}: {outcome}"


def decide(
    new: Evaluation, champion: Evaluation | None, gate: GateSettings, *, reads_the_same: bool = True
) -> Decision:
    """Promote if every verdict that was measured passed and `new` is not worse than `champion`.

    The comparison is paired: on the champion's scores on the new test data where it was evaluated beside
    (`new.champion_scores`), else on its own where both had the same test data and metric. Without either it is refused;
    but a champion that reads other examples than the task has now (`reads_the_same`) is compared by its record alone,
    and the record of one that was measured by another metric says nothing.
    """
    refusals = [str(verdict) for verdict in new.verdicts if verdict.status == "failed"]
    notes = []
    if champion is None:
        notes.append("it is the first champion")
    elif not champion.answers_as(new.classes):
        others = text(", ".join(champion.classes), LONGEST_LIST)
        notes.append(f"the champion before answers with other classes ({others}) and serves the task no more")
    else:
        same_metric = _measured_by(new) == _measured_by(champion)
        if not reads_the_same:
            notes.append("the champion before reads examples of another shape or preprocessing, and none of these")
        if not same_metric:
            notes.append(f"the champion before was measured by {_measured_by(champion)}, not by {_measured_by(new)}")
        for compare in [_paired] * reads_the_same + [_fall] * same_metric:
            fine, reason = compare(new, champion, gate)
            (notes if fine else refusals).append(reason)
    unmeasured = [str(verdict) for verdict in new.verdicts if verdict.status == "not measured"]
    return Decision(promote=not refusals, reasons=(*refusals, *notes, *unmeasured))


def _paired(new: Evaluation, champion: Evaluation, gate: GateSettings) -> tuple[bool, str]:
    beside = new.champion_scores
    if beside is None and _measured_by(new) != _measured_by(champion):
        return False, (
            f"not comparable: the champion was measured by {_measured_by(champion)}, the new one by "
            f"{_measured_by(new)}; run the retrain pipeline, which measures the champion by it too"
        )
    if beside is None and new.test_digest == champion.test_digest:
        beside = champion.scores
    if beside is None:
        return False, (
            "not comparable: the champion was measured on other test data; "
            "run the retrain pipeline, which evaluates it on the new data"
        )
    differences = gains(new, beside)
    if not differences:
        return False, f"not comparable: {len(new.scores)} scores of the new one, {len(beside)} of the champion"
    mean = fsum(differences) / len(differences)
    if not isfinite(mean):
        return False, "not comparable: a score is not a finite number"
    won, lost, p = sign_test(differences)
    fine = mean >= -gate.margin - ROUNDING
    words = ("not better by enough", "better") if gate.margin < 0 else ("worse", "not worse")
    relation, limit = f"{words[fine]} than the champion", "asked" if gate.margin < 0 else "allowed"
    return fine, (
        f"{relation} on the same {len(differences)} examples ({new.data}): {new.metric_name} better by "
        f"{difference_text(mean)} ({limit}: {difference_text(-gate.margin)}); {won} won, {lost} lost, exact sign test "
        f"p = {p:.3g}"
    )


def _fall(new: Evaluation, champion: Evaluation, gate: GateSettings) -> tuple[bool, str]:
    mine, theirs = new.delivered_metric, champion.delivered_metric
    if mine is None or theirs is None or not (isfinite(mine) and isfinite(theirs)):
        return False, f"not comparable: {new.metric_name} of the new one is {mine}, of the champion {theirs}"
    fall = theirs - mine if new.higher_is_better else mine - theirs
    fine = fall <= gate.max_metric_fall + ROUNDING
    record = f"the champion's record is {metric_text(theirs)} on {champion.data}"
    figures = f"{new.metric_name} {metric_text(mine)} on {new.data}; {record}"
    if fine:
        return True, figures
    word = "fell" if new.higher_is_better else "rose"
    return False, f"{figures}: it {word} by more than {gate.max_metric_fall:g}, as with broken data"


def _measured_by(evaluation: Evaluation) -> str:
    """The metric and its direction, in words."""
    return f"{evaluation.metric_name} ({'more' if evaluation.higher_is_better else 'less'} is better)"
