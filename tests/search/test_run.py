"""What a search ends in: budget kept, controls, cache, ladder; better than uniform, and TPE better than random."""

from typing import ClassVar

import numpy as np
import pytest

from pocketpipe.budget import Budget, Limits
from pocketpipe.errors import UserError
from pocketpipe.plan import CompressionPlan
from pocketpipe.search.run import search
from pocketpipe.search.settings import SearchSettings
from pocketpipe.search.store import TrialStore, Tried
from search import own_tuners
from search.synthetic import Bits, Scorer, Widths, chain, score_of

PROFILE = chain(groups=8)
DENSE = PROFILE.cost()
LIMITS = Budget(speedup=3.0).limits(DENSE)


WIDTHS = (Widths(),)


def run(folder, *, methods=WIDTHS, limits=LIMITS, seed=0, try_plan=None, champion=None, **settings):
    chosen, store = SearchSettings(**{"trials": 12, **settings}), TrialStore(folder)
    try_plan = try_plan or Scorer(PROFILE)
    return search(PROFILE, limits, methods, try_plan, chosen, seed=seed, store=store, champion=champion)


def best(trials):
    return max(trial.score for trial in trials if trial.origin == "tuner")


def test_origins_in_order_and_all_figures_true(tmp_path):
    trials = run(tmp_path, trials=5, controls=2, ladder=(0.5,))
    assert [t.origin for t in trials] == ["uniform", *["tuner"] * 5, *["random"] * 2, "ladder"]
    assert [t.index for t in trials] == list(range(9))
    for trial in trials:
        cost = trial.plan.predict(PROFILE).cost()
        assert trial.cost == cost
        assert trial.speedup == pytest.approx(DENSE.macs / cost.macs)
        assert trial.compression == pytest.approx(DENSE.file_bytes / cost.file_bytes)
        assert trial.score == score_of(trial.plan, PROFILE)


@pytest.mark.parametrize(
    "budget", [{"speedup": 3}, {"compression": 5}, {"speedup": 2, "compression": 4}, {"macs": 5_000_000}]
)
def test_budget_is_never_exceeded_and_nearly_used(tmp_path, budget):
    limits = Budget(**budget).limits(DENSE)
    for trial in run(tmp_path, limits=limits, trials=20, controls=4):
        if trial.origin != "ladder":
            assert limits.keeps(trial.cost)
            assert limits.usage(trial.cost) >= 0.98


def test_uniform_keeps_the_same_share_everywhere(tmp_path):
    uniform = run(tmp_path, trials=0, controls=0, ladder=())[0]
    widths = list(uniform.plan.steps[0].widths.values())
    assert max(widths) - min(widths) <= 1  # one channel more where it still fits


def test_what_weights_suggest_is_tried_and_the_tuner_knows_it(tmp_path):
    """The rest of an informed point is the uniform plan's; the suggestion is asked for on the budget."""
    narrow = 0.3

    def suggest(uniform):
        assert LIMITS.keeps(uniform.predict(PROFILE).cost())
        return [{f"{Widths.kind}/g0": narrow}]

    settings = SearchSettings(tuner="search.own_tuners:halving", trials=2, controls=0, ladder=())
    trials = search(
        PROFILE, LIMITS, WIDTHS, Scorer(PROFILE), settings, seed=0, store=TrialStore(tmp_path), informed=suggest
    )
    told = own_tuners.made[-1].imported
    assert [entry["value"] for entry in told] == [trials[0].score, trials[1].score]
    assert [entry["parameter"][f"{Widths.kind}/g0"] == narrow for entry in told] == [False, True]
    assert [t.origin for t in trials] == ["uniform", "informed", "tuner", "tuner"]
    uniform, informed = (trial.plan.steps[0].widths for trial in trials[:2])
    assert informed["g0"] < uniform["g0"] < informed["g1"]
    assert informed["g0"] == pytest.approx(64 * narrow, abs=4)
    assert LIMITS.keeps(trials[1].cost)


def test_what_makes_no_difference_to_the_budget_stays_whole(tmp_path):
    """Fewer bits cost accuracy, and MACs are what is limited."""
    methods = (Widths(), Bits())
    of_macs = run(tmp_path / "macs", methods=methods, trials=6, controls=3)
    assert {trial.origin for trial in of_macs} == {"uniform", "tuner", "random", "ladder"}
    assert {trial.plan.steps[1].size for trial in of_macs} == {4}
    of_bytes = run(tmp_path / "bytes", methods=methods, limits=Budget(speedup=2.0, compression=4.0).limits(DENSE))
    assert len({trial.plan.steps[1].size for trial in of_bytes if trial.origin == "tuner"}) > 1


def test_ladder_lies_between_dense_and_budget(tmp_path):
    trials = run(tmp_path, trials=0, controls=0, ladder=(0.25, 0.5, 0.75))
    speedups = [t.speedup for t in trials if t.origin == "ladder"]
    assert speedups == pytest.approx([1.5, 2.0, 2.5], rel=0.02)
    assert all(s >= asked for s, asked in zip(speedups, (1.5, 2.0, 2.5), strict=True))


def test_tpe_beats_random_and_uniform_at_the_same_number_of_trials(tmp_path):
    def mean_best(tuner):
        return np.mean(
            [
                best(run(tmp_path / f"{tuner}{s}", tuner=tuner, trials=40, controls=0, ladder=(), seed=s))
                for s in range(4)
            ]
        )

    uniform = score_of(run(tmp_path / "uniform", trials=0)[0].plan, PROFILE)
    tpe, at_random = mean_best("tpe"), mean_best("random")
    assert tpe > at_random + 0.002
    assert tpe > uniform + 0.03


def test_a_plan_met_again_is_scored_once_and_says_so(tmp_path):
    """Bits alone has three plans: 12 proposals, never more than three calls."""
    scorer = Scorer(PROFILE)
    limits = Limits(file_bytes=DENSE.file_bytes)
    trials = run(
        tmp_path, methods=(Bits(),), limits=limits, try_plan=scorer, tuner="evolution", trials=12, controls=3, ladder=()
    )
    assert len(trials) == 16
    assert len(scorer.calls) == len(set(scorer.calls)) <= 3
    first = {}
    for trial in trials:
        assert trial.same_as == first.get(trial.plan_json)
        first.setdefault(trial.plan_json, trial.index)
        assert trial.same_as is None or trial.seconds == 0.0


def test_grid_of_a_finite_space_ends_early(tmp_path):
    """Three plans: the uniform one, which the grid is told and leaves out, and the two others."""
    limits = Limits(file_bytes=DENSE.file_bytes)
    trials = run(tmp_path, methods=(Bits(),), limits=limits, tuner="grid", trials=50, controls=0, ladder=())
    assert [t.plan.steps[0].size for t in trials] == [4, 2, 1]


def test_methods_share_the_budget(tmp_path):
    """8 times smaller with 4-byte, 2-byte or 1-byte parameters: channels use just what the bits leave."""
    limits = Budget(compression=8.0).limits(DENSE)
    trials = run(tmp_path, methods=(Widths(), Bits()), limits=limits, trials=15, controls=4, ladder=())
    sizes = {trial.plan.steps[1].size for trial in trials}
    assert len(sizes) >= 2
    for trial in trials:
        assert [step.kind for step in trial.plan.steps] == [Widths.kind, Bits.kind]
        assert limits.keeps(trial.cost)
        assert limits.usage(trial.cost) >= 0.97


def test_own_tuner_gets_the_uniform_plan_first_and_every_result(tmp_path):
    trials = run(tmp_path, tuner="search.own_tuners:halving", trials=4, controls=0, ladder=())
    tuner = own_tuners.made[-1]
    assert [entry["value"] for entry in tuner.imported] == [trials[0].score]
    assert list(tuner.imported[0]["parameter"]) == list(tuner.space)
    assert list(tuner.results.values()) == [t.score for t in trials[1:]]
    assert tuner.ended == dict.fromkeys(range(4), True)


def test_lower_is_better_turns_the_sign_for_the_tuner(tmp_path):
    settings = SearchSettings(tuner="search.own_tuners:halving", trials=2, controls=0, ladder=())
    store = TrialStore(tmp_path)
    trials = search(PROFILE, LIMITS, [Widths()], Scorer(PROFILE), settings, seed=0, store=store, higher_is_better=False)
    assert list(own_tuners.made[-1].results.values()) == [-t.score for t in trials[1:]]


def test_random_controls_depend_on_the_seed_and_their_number_alone(tmp_path):
    def controls(name, **settings):
        return [t.plan_json for t in run(tmp_path / name, ladder=(), **settings) if t.origin == "random"]

    three = controls("a", trials=0, controls=3)
    assert controls("b", trials=7, controls=5)[:3] == three
    assert controls("c", trials=0, controls=3, seed=1) != three


@pytest.mark.parametrize("tuner", ["tpe", "random"])
def test_no_control_is_what_the_tuner_proposes_first(tuner, tmp_path):
    trials = run(tmp_path, tuner=tuner, trials=3, controls=3, ladder=())
    proposed, drawn = ([t.plan_json for t in trials if t.origin == origin] for origin in ("tuner", "random"))
    assert len(proposed) == len(drawn) == 3
    assert {*proposed}.isdisjoint(drawn)


def test_a_step_that_overshoots_is_named(tmp_path):
    class Careless(Widths):
        def project(self, profile, limits):
            return self.model_copy(update={"widths": {}})

    with pytest.raises(UserError, match=r"search\.synthetic:Widths.*over the limit"):
        run(tmp_path, methods=(Careless(),))


class Late(Widths):
    """A step that costs a twentieth more once it is pinned, as what looks at weights may."""

    kind: ClassVar[str] = "search.test_run:Late"
    pinned: bool = False

    def pin(self, network, task, data):
        return self.model_copy(update={"pinned": True})

    def predict(self, profile):
        wider = {name: min(64, round(width * 1.05)) for name, width in self.widths.items()}
        return profile.narrowed(wider if self.pinned else self.widths)


def test_proposals_that_pinning_takes_over_the_limit_are_aimed_lower(tmp_path):
    asked = []

    def try_plan(plan):
        (step,) = plan.steps
        asked.append(plan)
        return Tried(plan=CompressionPlan((step.pin(None, None, None),)), score=0.5)

    trials = run(tmp_path, methods=(Late(),), try_plan=try_plan, trials=4, controls=1, ladder=(0.5,))
    assert [trial.origin for trial in trials] == ["uniform", *["tuner"] * 4, "random", "ladder"]
    on_the_budget = trials[:-1]
    assert all(LIMITS.keeps(trial.cost) for trial in on_the_budget)
    assert min(LIMITS.usage(trial.cost) for trial in on_the_budget) > 0.75
    assert len(asked) > len(trials), "some were over the limit at first"


def test_a_champions_plan_is_tried_last_as_it_is_and_kept_in_the_store(tmp_path):
    champion = CompressionPlan((Widths(widths={"g3": 8}),))
    tried = []

    def try_plan(plan):
        tried.append(plan)
        return Tried(plan, score_of(plan, PROFILE))

    first = run(tmp_path, try_plan=try_plan, champion=champion, limits=Limits(macs=DENSE.macs))
    assert (first[-1].origin, first[-1].plan, first[-1].index) == ("champion", champion, len(first) - 1)
    assert tried[-1] == champion
    tried.clear()
    again = run(tmp_path, try_plan=try_plan, champion=champion, limits=Limits(macs=DENSE.macs))
    assert (again, tried) == (first, []), "a search that was killed measures nothing twice"


def test_a_champions_plan_that_was_found_again_is_no_second_measurement(tmp_path):
    uniform = run(tmp_path / "without", trials=0, controls=0, ladder=())[0]
    trials = run(tmp_path / "with", trials=0, controls=0, ladder=(), champion=uniform.plan)
    assert [(trial.origin, trial.same_as) for trial in trials] == [("uniform", None), ("champion", 0)]


@pytest.mark.parametrize("score", [float("nan"), RuntimeError("no layer of that name")], ids=["no number", "a fault"])
def test_a_champions_plan_that_cannot_be_carried_out_anew_is_told_and_left_out(score, tmp_path, caplog):
    champion = CompressionPlan((Widths(widths={"g3": 8}),))

    def try_plan(plan):
        if plan != champion:
            return Tried(plan, score_of(plan, PROFILE))
        if isinstance(score, Exception):
            raise score
        return Tried(plan, score)

    trials = run(tmp_path, try_plan=try_plan, champion=champion, trials=1)
    assert "champion" not in {trial.origin for trial in trials}
    assert "the champion's plan cannot be carried out anew" in caplog.text


def test_a_score_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(UserError, match="trial 0 has the score nan"):
        run(tmp_path, try_plan=lambda plan: Tried(plan=plan, score=float("nan")))


def test_a_proposal_that_cannot_be_tried_is_dropped_with_a_warning(tmp_path, caplog):
    calls = []

    def try_plan(plan):
        calls.append(plan)
        if len(calls) == 3:
            raise UserError("channels: no labels to look at")
        return Tried(plan, float("nan") if len(calls) == 5 else score_of(plan, PROFILE))

    trials = run(tmp_path, try_plan=try_plan, trials=4, controls=1, ladder=(0.5,))
    assert [trial.origin for trial in trials] == ["uniform", "tuner", "tuner", "random", "ladder"]
    assert "a proposal (tuner) is dropped: channels: no labels to look at" in caplog.text
    assert "score nan" in caplog.text


def test_out_of_reach_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"at their smallest: .* over the limit of 10"):
        run(tmp_path, limits=Limits(macs=10))


def test_network_that_leaves_nothing_to_vary(tmp_path):
    """Only the uniform plan and the ladder: no tuner is asked."""
    rigid = PROFILE.model_copy(
        update={"groups": tuple(g.model_copy(update={"slimmable": False}) for g in PROFILE.groups)}
    )

    class Fixed(Bits):
        size: int = 1

        def space(self, profile):
            return {}

        def proposed(self, parameters, profile):
            return self

    settings = SearchSettings(trials=5, ladder=())
    limits = Budget(compression=3.0).limits(rigid.cost())
    trials = search(
        rigid, limits, [Fixed()], lambda plan: Tried(plan, 0.5), settings, seed=0, store=TrialStore(tmp_path)
    )
    assert [t.origin for t in trials] == ["uniform"]


def test_nothing_is_printed_off_terminal(tmp_path, capfd):
    run(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_trials_survive_json(tmp_path):
    for trial in run(tmp_path, trials=2):
        assert type(trial).model_validate_json(trial.model_dump_json()) == trial
        assert CompressionPlan.from_json(trial.plan_json) == trial.plan
