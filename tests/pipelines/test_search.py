"""The search stage: when a champion's plan is gone on with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compression.zoo import DIGIT, zoo
from elsewhere import DEVICE, elsewhere
from own.tasks import Shapes
from pocketpipe.budget import Budget, Limits
from pocketpipe.champion import Champion
from pocketpipe.compression.blocks import BlocksStep
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.modules import device_of
from pocketpipe.compression.tracing import profile_of
from pocketpipe.cost import Cost
from pocketpipe.errors import Diverged
from pocketpipe.evaluation import Evaluation
from pocketpipe.network import StoredNetwork
from pocketpipe.pipelines.search.nodes import _champions_score, _keeps, _trial_functions, _uses, find_plan
from pocketpipe.plan import CompressionPlan
from pocketpipe.search.settings import SearchSettings
from pocketpipe.search.trial import Trial
from pocketpipe.task import TaskChoice
from pocketpipe.training import device
from pocketpipe.training.recipe import TrainerSettings

TASK: Any = type("Task", (), {"input_shape": DIGIT, "labels": tuple("0123456789")})


COST = Cost(macs=1, parameters=1, file_bytes=1)
EVALUATION = Evaluation(
    metric_name="accuracy", data="test", test_digest="", teacher_cost=COST, student_cost=COST, subjects=(), verdicts=()
)


def champion(step: ChannelsStep, **state: Any) -> Champion:
    plan = CompressionPlan((step,))
    network = StoredNetwork("resnet8")
    return Champion(network, StoredNetwork("resnet8", plan=plan, **state), plan, b"", EVALUATION)


def test_a_plan_that_fits_the_network_no_more_keeps_nothing(caplog: pytest.LogCaptureFixture) -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    limits = Limits(macs=profile.cost().macs)
    gone = ChannelsStep(widths={"of another day": 3}, channels={"of another day": (0, 1, 2)})
    assert not _keeps(champion(gone), TASK, profile, limits)
    assert "does not fit the network as it is now: channels.widths.of another day" in caplog.text
    fitting = ChannelsStep(widths={"conv1": 8}, channels={"conv1": tuple(range(8))})
    assert _keeps(champion(fitting), TASK, profile, limits)
    assert not _keeps(champion(fitting), TASK, profile, Limits(macs=1000))
    other = {"state": {"quantizers.relu.scale": zoo("resnet8", DIGIT).conv1.weight}}
    assert not _keeps(champion(fitting, **other), TASK, profile, limits), "weights of other code"


def test_a_champion_of_a_budget_that_was_relaxed_since_is_not_kept_without_a_search() -> None:
    profile, steps = profile_of(zoo("resnet8", DIGIT), DIGIT), [ChannelsStep()]
    plan = CompressionPlan((ChannelsStep(widths={"conv1": 8}, channels={"conv1": tuple(range(8))}),))
    macs = plan.predict(profile).cost().macs
    assert _uses(plan, steps, profile, Limits(macs=macs))
    assert _uses(plan, steps, profile, Limits(macs=int(macs / 0.92)))
    assert not _uses(plan, steps, profile, Limits(macs=int(macs / 0.87)))
    assert _uses(CompressionPlan(), steps, profile, Limits(macs=2 * profile.cost().macs)), "no more is to be had"
    blocks = CompressionPlan((BlocksStep(keep={"layer1.0": 0}),))
    assert _uses(blocks, [BlocksStep()], profile, Limits(macs=int(blocks.predict(profile).cost().macs * 1.2)))


@pytest.mark.parametrize(
    ("as_it_is", "tuned", "kept", "doubts"),
    [(0.95, None, 0.95, 0), (0.85, 0.92, 0.92, 0), (0.85, 0.7, 0.85, 0), (0.85, Diverged("it went away"), 0.85, 1)],
    ids=["enough", "better", "worse", "diverged"],
)
def test_a_champion_is_tuned_where_it_is_not_enough_as_it_is(
    as_it_is: float, tuned: Any, kept: float, doubts: int
) -> None:
    """And its better score counts: the short training can cost more than it brings."""

    def tune(student: StoredNetwork, name: str) -> float:
        if isinstance(tuned, Exception):
            raise tuned
        assert tuned is not None, "it was good enough"
        return float(tuned)

    step = ChannelsStep(widths={"conv1": 8}, channels={"conv1": tuple(range(8))})
    task: Any = type("Task", (), {"higher_is_better": True, "input_shape": DIGIT, "labels": tuple("0123456789")})
    found = _champions_score(champion(step), as_it_is, task, lambda score: score >= 0.9, tune)
    assert (found[0], len(found[1])) == (kept, doubts)


class Scored:
    """Stands for a stored network whose score is known."""

    def __init__(self, score: float) -> None:
        self.score = score

    def build(self, task: Any) -> None:
        """Nobody looks at it."""

    def digest(self) -> str:
        return "scored"


def plan_of(width: int) -> CompressionPlan:
    return CompressionPlan((ChannelsStep(widths={"conv1": width}, channels={"conv1": tuple(range(width))}),))


def found_with(
    tuned: dict[str, float | Exception], student: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Any, Any]:
    """(whose plan it is, trials, record) where a budget was relaxed: the teacher has 0.95, half a point may be lost.

    `tuned`: score of each finalist after its short training; the champion's is the third.
    """
    champions: Any = Champion(Scored(0.95), Scored(student), plan_of(4), b"", EVALUATION)  # type: ignore[arg-type]
    plan, network, trials, record = found_by_stand_ins(tuned, 2, champions, folder, monkeypatch)
    whose = "champion" if plan == champions.plan else "found"
    assert (network is champions.student) == (whose == "champion"), "with the weights that it has"
    return whose, trials, record


def found_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[CompressionPlan, Any, Any]:
    """(plan, trials, record) of a search with one finalist and no champion; no training has a score."""
    plan, _, trials, record = found_by_stand_ins({}, 1, None, folder, monkeypatch)
    return plan, trials, record


def found_by_stand_ins(
    tuned: dict[str, float | Exception],
    finalists: int,
    champions: Champion | None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[CompressionPlan, Any, Any, Any]:
    profile, splits = profile_of(zoo("resnet8", DIGIT), DIGIT), Shapes(60).load(seed=0, holdout=None)[0]

    def trial(index: int, origin: Any, plan: CompressionPlan) -> Trial:
        cost = plan.predict(profile).cost()
        return Trial(
            index=index, origin=origin, plan_json=plan.to_json(), cost=cost, speedup=1.5, compression=1.5, score=0.5,
            seconds=0.0,
        )  # fmt: skip

    def search(*_: Any, champion: CompressionPlan | None, **__: Any) -> list[Trial]:
        made = [trial(0, "uniform", plan_of(10)), trial(1, "tuner", plan_of(11))]
        return made if champion is None else [*made, trial(2, "champion", champion)]

    def fit(cut: Any, *_: Any, title: str, shared: Path, **__: Any) -> Any:
        (shared / "taught").mkdir(exist_ok=True)
        score = tuned[title]
        if isinstance(score, Exception):
            raise score
        return SimpleNamespace(network=Scored(score))

    for name, stand_in in {
        "_uses": lambda *_: False,
        "score_of": lambda network, *_: network.score,
        "search": search,
        "_trial_functions": lambda *_: (None, lambda plan: "cut anew"),
        "fit": fit,
    }.items():
        monkeypatch.setattr(f"pocketpipe.pipelines.search.nodes.{name}", stand_in)
    teacher: Any = Scored(0.95)
    recipe: Any = SimpleNamespace(batch_size=8)
    found = find_plan(
        TaskChoice(name="own.tasks:build", options={"count": 60}), Budget(speedup=1.5, accuracy_drop=0.005),
        ["channels"], SearchSettings(finalists=finalists), recipe, TrainerSettings(), 0, teacher, teacher, profile,
        splits, folder, folder, champions,
    )  # fmt: skip
    assert not (folder / "taught").exists(), "what teachers said to all finalists"
    return found


@pytest.mark.parametrize(
    ("tuned", "student", "whose", "said"),
    [
        ((0.90, 0.95, 0.94), 0.95, "found", "trial 1 (tuner)"),
        ((0.90, 0.94, 0.95), 0.95, "champion", "trial 2 (champion)"),
        ((0.90, 0.93, 0.92), 0.95, "champion", "the champion's, as no finalist keeps the budget"),
        ((0.90, 0.93, 0.92), 0.80, "found", "trial 1 (tuner)"),
        (None, 0.95, "champion", "the champion's, as all finalists diverged"),
    ],
    ids=["another is better", "it is best", "none keeps the budget", "it does not either", "all diverge"],
)
def test_a_champions_plan_is_a_finalist_where_the_search_runs(
    tuned: tuple[float, ...] | None,
    student: float,
    whose: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores: dict[str, Any] = {
        f"finalist {index}": Diverged("it went away; lower finalists.learning_rate") if tuned is None else tuned[index]
        for index in range(3)
    } | {"champion's plan": student}
    found, trials, record = found_with(scores, student, tmp_path, monkeypatch)
    assert (found, record.facts["plan"]) == (whose, said)
    assert [trial.origin for trial in trials] == ["uniform", "tuner", "champion"]
    if tuned is None:
        assert any("lower finalists.learning_rate" in line for line in record.warnings)
    if whose == "champion":
        assert record.metrics["score"] == student
        assert record.facts["missed"] == 2, "plans as small are no answer where it loses too much"


def test_a_champions_plan_that_wins_beside_a_student_that_is_lost_is_cut_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champions: Any = Champion(Scored(0.95), Scored(0.80), plan_of(4), b"", EVALUATION)  # type: ignore[arg-type]
    scores: dict[str, float | Exception] = {"finalist 0": 0.90, "finalist 1": 0.93, "finalist 2": 0.95}
    plan, network, trials, record = found_by_stand_ins(
        scores | {"champion's plan": 0.80}, 2, champions, tmp_path, monkeypatch
    )
    assert (plan, network) == (champions.plan, "cut anew")
    assert record.facts["winner"] == trials[2].index
    assert record.metrics["tuned_score"] == 0.95


def test_a_single_finalist_is_not_trained_to_be_compared_with_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, trials, record = found_alone(tmp_path, monkeypatch)
    assert plan == trials[0].plan
    assert record.facts["winner"] == 0
    assert record.metrics["score"] == trials[0].score
    assert {trial.tuned_score for trial in trials} == {None}
    assert "tuned_score" not in record.metrics


def test_without_a_champion_that_is_good_enough_a_search_that_diverges_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores: dict[str, Any] = {f"finalist {index}": Diverged("it went away") for index in range(3)}
    with pytest.raises(Diverged):
        found_with(scores | {"champion's plan": 0.8}, 0.8, tmp_path, monkeypatch)


def test_trials_are_computed_where_trainings_run(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskChoice(name="digits").build(Path("data"))
    splits, _ = task.load(seed=0, holdout=None)
    start = StoredNetwork("resnet8").with_weights(zoo("resnet8", DIGIT))
    plan = CompressionPlan((ChannelsStep(widths={"conv1": 8}),))

    def outcome() -> tuple[Any, StoredNetwork]:
        try_plan, slim = _trial_functions(start, start.build(task), task, splits, TrainerSettings())
        return try_plan(plan), slim(plan)

    tried, made = outcome()
    devices = set[torch.device]()
    carry_out = CompressionPlan.carry_out

    def watched(self: CompressionPlan, network: torch.nn.Module, *others: Any) -> Any:
        devices.add(device_of(network))
        return carry_out(self, network, *others)

    monkeypatch.setattr(CompressionPlan, "carry_out", watched)
    monkeypatch.setattr(device, "_device", lambda _: DEVICE)
    with elsewhere(monkeypatch):
        tried_there, made_there = outcome()
    assert devices == {DEVICE}
    assert (tried_there.plan, tried_there.score) == (tried.plan, pytest.approx(tried.score, abs=0.01))
    for name, tensor in made.state.items():
        assert torch.allclose(made_there.state[name], tensor, atol=1e-4), name
