"""Who gets the short fine-tuning, and who goes on."""

import pytest

from pocketpipe.budget import Budget
from pocketpipe.cost import Cost
from pocketpipe.errors import Diverged, UserError
from pocketpipe.reporting.wording import nearest_text
from pocketpipe.search.finalists import choose, finalists_of
from pocketpipe.search.nearest import nearest_passing
from pocketpipe.search.store import TrialStore
from pocketpipe.search.trial import Trial


def trial(index, origin, score, speedup=2.0, plan=None, **more):
    compression = more.pop("compression", 2.0)
    return Trial(
        index=index,
        origin=origin,
        plan_json=plan or f"plan {index}",
        cost=Cost(macs=int(12000 / speedup), parameters=1, file_bytes=int(12000 / compression)),
        speedup=speedup,
        compression=compression,
        score=score,
        seconds=0.0,
        **more,
    )


TRIALS = [
    trial(0, "uniform", 0.80),
    trial(1, "tuner", 0.90),
    trial(2, "tuner", 0.95, plan="twin"),
    trial(3, "tuner", 0.95, plan="twin", same_as=2),
    trial(4, "tuner", 0.85),
    trial(5, "random", 0.99),
    trial(6, "ladder", 1.00, speedup=1.5),
]


def indices(trials):
    return [t.index for t in trials]


def test_best_distinct_trials_and_uniform_has_a_place():
    assert indices(finalists_of(TRIALS, 1)) == [2]
    assert indices(finalists_of(TRIALS, 2)) == [2, 0]
    assert indices(finalists_of(TRIALS, 3)) == [2, 1, 0]
    assert indices(finalists_of(TRIALS, 9)) == [2, 1, 4, 0]


def test_a_champions_plan_has_a_place_beside_the_others():
    champion = trial(7, "champion", 0.1)
    assert indices(finalists_of([*TRIALS, champion], 2)) == [2, 0, 7]
    found_again = trial(7, "champion", 0.1, plan="twin")
    assert indices(finalists_of([*TRIALS, found_again], 2)) == [2, 0]


def test_lower_is_better():
    assert indices(finalists_of(TRIALS, 2, higher_is_better=False)) == [0, 4]


def test_equal_scores_prefer_the_faster_then_the_earlier():
    equal = [trial(0, "tuner", 0.5), trial(1, "tuner", 0.5, speedup=3.0), trial(2, "tuner", 0.5)]
    assert indices(finalists_of(equal, 3)) == [1, 0, 2]


def test_a_finalist_that_diverges_drops_out(tmp_path):
    def tune(trial):
        if trial.index == 2:
            raise Diverged("training diverged in epoch 1")
        return float("nan") if trial.index == 1 else 0.7

    choice = choose(TRIALS, tune, count=3, store=TrialStore(tmp_path))
    assert choice.winner.index == 0
    assert [line.split(":")[0] for line in choice.dropped] == ["finalist 2 drops out", "finalist 1 drops out"]
    assert {t.tuned_score for t in choice.trials} == {None, 0.7}


def test_a_search_whose_finalists_all_diverge_says_so(tmp_path):
    def tune(trial):
        raise Diverged("training diverged in epoch 1")

    with pytest.raises(Diverged, match=r"(?s)finalist 2.*finalist 0"):
        choose(TRIALS, tune, count=2, store=TrialStore(tmp_path))


def test_the_winner_is_the_best_after_tuning(tmp_path):
    tuned = {0: 0.91, 1: 0.97, 2: 0.96}
    choice = choose(TRIALS, lambda t: tuned[t.index], count=3, store=TrialStore(tmp_path))
    assert (choice.winner.index, choice.winner.tuned_score) == (1, 0.97)
    assert [t.tuned_score for t in choice.trials] == [0.91, 0.97, 0.96, 0.96, None, None, None]
    assert choose(TRIALS, lambda t: -t.score, count=2, store=TrialStore(tmp_path / "b")).winner.index == 0
    lower = choose(TRIALS, lambda t: t.score, count=3, store=TrialStore(tmp_path / "c"), higher_is_better=False)
    assert lower.winner.index == 0


def test_equal_after_tuning_the_better_one_before_wins_a_champions_too(tmp_path):
    champion = trial(7, "champion", 0.97)
    choice = choose([*TRIALS, champion], lambda t: 0.9, count=2, store=TrialStore(tmp_path))
    assert choice.winner.index == 7


def test_tuning_goes_on_where_it_stopped(tmp_path):
    calls = []

    def tune(t):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(t.index)
        return t.score

    with pytest.raises(KeyboardInterrupt):
        choose(TRIALS, tune, count=3, store=TrialStore(tmp_path))
    again = []
    choose(TRIALS, lambda t: again.append(t.index) or t.score, count=3, store=TrialStore(tmp_path))
    assert (calls, again) == ([2, 1], [0])


def test_nothing_to_choose_from(tmp_path):
    with pytest.raises(UserError, match="no trial"):
        choose(TRIALS[5:], lambda t: 1.0, count=3, store=TrialStore(tmp_path))


FRONT = [
    trial(0, "uniform", 0.90, speedup=4.0, compression=3.0),
    trial(1, "ladder", 0.97, speedup=2.0, compression=2.0),
    trial(2, "ladder", 0.96, speedup=3.0, compression=1.9),
    trial(3, "tuner", 0.90, speedup=4.0, compression=3.0, tuned_score=0.955),
]


@pytest.mark.parametrize(
    ("budget", "index"),
    [
        ({"speedup": 4, "accuracy_drop": 0.02}, 2),
        ({"speedup": 4, "accuracy_drop": 0.03}, 3),  # its tuned score counts
        ({"compression": 3, "accuracy_drop": 0.02}, 1),
        ({"speedup": 4, "accuracy_drop": 0.5, "minimum_metric": 0.965}, 1),
        ({"speedup": 4, "minimum_metric": 0.99}, None),
        ({"speedup": 4}, 0),
    ],
)
def test_nearest_passing(budget, index):
    found = nearest_passing(FRONT, 0.98, Budget(**budget))
    assert (found and found.index) == index


@pytest.mark.parametrize(("term", "cost"), [("ram_kb", "peak_ram_bytes"), ("flash_kb", "flash_bytes")])
def test_nearest_passing_to_what_a_device_has_goes_by_that(term, cost):
    """Whatever the file takes in transport."""
    tried = [
        entry.model_copy(update={"cost": entry.cost.model_copy(update={cost: kb * 1024})})
        for entry, kb in zip(FRONT[:3], (20, 60, 40), strict=True)
    ]
    budget = Budget(**{term: {"cortex_m": 20}}, accuracy_drop=0.03)
    assert nearest_passing(tried, 0.98, budget).index == 2


def test_a_plan_that_was_missed_is_not_named_again_nor_one_as_small():
    wide = Budget(speedup=4, accuracy_drop=0.03)
    assert nearest_passing(FRONT, 0.98, wide).index == 3
    assert nearest_passing(FRONT, 0.98, wide, missed=FRONT[3]).index == 2


def test_what_the_budget_does_not_bound_makes_no_plan_larger():
    wide = Budget(speedup=4, accuracy_drop=0.1)
    as_fast = trial(4, "uniform", 0.95, speedup=4.0, compression=1.5)
    assert nearest_passing([*FRONT, as_fast], 0.98, wide, missed=FRONT[3]).index == 2
    bytes_too = Budget(speedup=4, compression=3, accuracy_drop=0.1)
    assert nearest_passing([*FRONT, as_fast], 0.98, bytes_too, missed=FRONT[3]).index == 4


def test_nearest_passing_with_an_error_rate():
    errors = [trial(0, "ladder", 0.10, speedup=2.0), trial(1, "uniform", 0.30, speedup=4.0)]
    found = nearest_passing(errors, 0.05, Budget(speedup=4, accuracy_drop=0.06), higher_is_better=False)
    assert found is errors[0]


def test_the_nearest_plan_in_words():
    fewer = Budget(speedup=4)
    assert nearest_text(FRONT[2], 0.98, fewer, "metric") == (
        "trial 2 (ladder): 3.00x fewer MACs, 1.90x smaller file, metric 0.9600 on the selection split "
        "before fine-tuning (teacher 0.9800)"
    )
    assert "after a short fine-tuning" in nearest_text(FRONT[3], 0.98, fewer, "metric")
    assert nearest_text(None, 0.98, fewer, "metric").startswith("no plan that was tried keeps the accuracy")
    small = FRONT[2].model_copy(
        update={"cost": FRONT[2].cost.model_copy(update={"flash_bytes": 51_200, "peak_ram_bytes": 40_960})}
    )
    words = nearest_text(small, 0.98, Budget(flash_kb={"cortex_m": 40}, ram_kb={"cortex_m": 32}), "metric")
    assert "1.90x smaller file, 50.0 kB of flash, 40.0 kB of RAM, metric" in words
