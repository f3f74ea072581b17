"""Gate decisions against hand-computed figures and SciPy's tests."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest

from pocketpipe.evaluation import Subject, sign_test
from pocketpipe.tracking.gates import GateSettings, Promotion, decide


def test_the_first_version_is_promoted_if_its_verdicts_passed(evaluation):
    decision = decide(evaluation(), None, GateSettings())
    assert decision.promote
    assert decision.reasons == ("it is the first champion",)


def test_a_failed_verdict_refuses_even_without_a_champion(evaluation, verdict):
    decision = decide(evaluation(verdicts=(verdict("speedup", "failed", "too slow"),)), None, GateSettings())
    assert not decision.promote
    assert decision.reasons[0] == "speedup: asked >= 2.00x MACs, got 2.50x on student.onnx: failed (too slow)"


def test_what_was_not_measured_is_said_and_does_not_refuse(evaluation, verdict):
    decision = decide(evaluation(verdicts=(verdict("latency", "not measured", "no QEMU"),)), None, GateSettings())
    assert decision.promote
    assert "not measured (no QEMU)" in decision.reasons[-1]


@pytest.mark.parametrize(
    ("lost", "won", "promote"),
    [(0, 0, True), (5, 0, True), (6, 0, False), (9, 4, True), (10, 4, False), (0, 9, True)],
)
def test_the_margin_counts_the_mean_paired_loss(evaluation, lost, won, promote):
    """1,000 examples, margin 0.005: five lost in the balance are allowed, six are not."""
    champion = [1.0] * 900 + [0.0] * 100
    new = list(champion)
    new[:lost] = [0.0] * lost
    new[900 : 900 + won] = [1.0] * won
    decision = decide(evaluation(scores=new), evaluation(scores=champion), GateSettings(margin=0.005))
    assert decision.promote is promote
    assert f"{won} won, {lost} lost" in " ".join(decision.reasons)


def test_mcnemar_by_hand():
    """8 lost and 2 won: 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10 = 112 / 1024."""
    assert sign_test([-1.0] * 8 + [1.0] * 2 + [0.0] * 90) == (2, 8, 112 / 1024)


def test_the_sign_test_equals_scipy():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 100, 2000):
        differences = rng.normal(0.1, 1, size)
        won, lost, p = sign_test(differences.tolist())
        assert won + lost == size
        assert p == pytest.approx(binomtest(won, size).pvalue, rel=1e-9)


def test_the_sign_test_of_a_large_test_split_equals_scipy():
    """By the definition, a binomial coefficient for each term, it took minutes."""
    for won, lost in ((30_000, 30_400), (50, 59_950), (20_000, 20_000)):
        differences = [1.0] * won + [-1.0] * lost
        assert sign_test(differences)[2] == pytest.approx(binomtest(won, won + lost).pvalue, rel=1e-9, abs=0)


def test_equal_scores_give_no_evidence_at_all():
    assert sign_test([0.0] * 10) == (0, 0, 1.0)


def test_scores_of_the_champion_on_the_new_data_count_before_its_own(evaluation):
    champion = evaluation(test_digest="old", scores=(1.0, 1.0, 1.0, 1.0))
    new = evaluation(test_digest="new", scores=(1.0, 1.0, 1.0, 0.0), champion_scores=(1.0, 1.0, 0.0, 0.0))
    decision = decide(new, champion, GateSettings(max_metric_fall=0.5))
    assert decision.promote
    assert "1 won, 0 lost" in decision.reasons[0]


def test_other_test_data_without_the_champions_scores_is_not_comparable(evaluation):
    decision = decide(evaluation(test_digest="new"), evaluation(test_digest="old"), GateSettings())
    assert not decision.promote
    assert "run the retrain pipeline" in decision.reasons[0]


def test_scores_that_do_not_pair_are_not_comparable(evaluation):
    decision = decide(evaluation(scores=(1.0, 1.0)), evaluation(), GateSettings())
    assert not decision.promote
    assert "2 scores of the new one, 4 of the champion" in decision.reasons[0]


def test_a_score_that_is_no_number_is_not_comparable(evaluation):
    decision = decide(evaluation(scores=(1.0, 1.0, float("nan"), 1.0)), evaluation(), GateSettings())
    assert not decision.promote


def test_broken_data_is_refused_though_the_champion_does_no_better_on_it(evaluation):
    """Shuffled labels: champion and newcomer are both at chance there, so that the paired comparison sees nothing."""
    champion = evaluation(test_digest="good", scores=(1.0,) * 95 + (0.0,) * 5)
    at_chance = (1.0,) * 10 + (0.0,) * 90
    new = evaluation(test_digest="shuffled", scores=at_chance, champion_scores=at_chance)
    decision = decide(new, champion, GateSettings())
    assert not decision.promote
    assert "broken data" in decision.reasons[0]
    assert decide(new, champion, GateSettings(max_metric_fall=0.85)).promote


def test_a_metric_that_should_fall_is_compared_the_other_way(evaluation):
    low, high = (
        evaluation(scores=(0.1,) * 4, higher_is_better=False),
        evaluation(scores=(0.3,) * 4, higher_is_better=False),
    )
    assert decide(low, high, GateSettings()).promote
    assert not decide(high, low, GateSettings()).promote


def test_a_champion_that_reads_other_examples_is_compared_by_its_record(evaluation):
    old, new = evaluation(scores=[1.0] * 9 + [0.0]), evaluation(scores=[1.0] * 18 + [0.0] * 2)
    old = old.model_copy(update={"test_digest": "of smaller images"})
    assert not decide(new, old, GateSettings()).promote
    assert decide(new, old, GateSettings(), reads_the_same=False).promote
    worse = evaluation(scores=[1.0] * 8 + [0.0] * 2)
    assert not decide(worse, old, GateSettings(), reads_the_same=False).promote


ERROR = {"metric_name": "error", "higher_is_better": False}


def test_a_record_by_another_metric_is_not_compared_with(evaluation):
    """0.94 of accuracy against 0.04 of error: neither a fall nor a gain."""
    champion = evaluation(scores=[1.0] * 94 + [0.0] * 6)
    good, bad = ([0.0] * (100 - wrong) + [1.0] * wrong for wrong in (4, 40))
    for scores in (good, bad):
        decision = decide(evaluation(scores=scores, **ERROR), champion, GateSettings())
        assert not decision.promote
        assert "the champion was measured by accuracy (more is better), the new one by error (less is" in " ".join(
            decision.reasons
        )
    measured_anew = [0.0] * 94 + [1.0] * 6
    assert decide(evaluation(scores=good, champion_scores=measured_anew, **ERROR), champion, GateSettings()).promote
    worse = decide(evaluation(scores=bad, champion_scores=measured_anew, **ERROR), champion, GateSettings())
    assert not worse.promote
    assert worse.reasons[0].startswith("worse than the champion on the same 100 examples")


def test_the_same_metric_turned_round_is_another(evaluation):
    turned = evaluation(higher_is_better=False)
    assert not decide(turned, evaluation(), GateSettings()).promote


def test_a_champion_of_other_examples_and_another_metric_blocks_nothing_for_ever(evaluation):
    decision = decide(evaluation(**ERROR), evaluation(), GateSettings(), reads_the_same=False)
    assert decision.promote
    assert "was measured by accuracy (more is better), not by error" in decision.reasons[1]


def test_below_zero_the_margin_is_the_gain_that_is_asked(evaluation):
    """1,000 examples: three won are not enough for 0.004, four are."""
    gate, champion = GateSettings(margin=-0.004), evaluation(scores=[0.0] * 10 + [1.0] * 990)
    for won, promote in ((3, False), (4, True)):
        decision = decide(evaluation(scores=[1.0] * won + [0.0] * (10 - won) + [1.0] * 990), champion, gate)
        assert decision.promote is promote
        assert any(reason.startswith(("not better", "better")[promote]) for reason in decision.reasons)


def test_settings_refuse_what_is_no_margin():
    for fields in ({"margin": float("nan")}, {"max_metric_fall": -0.1}):
        with pytest.raises(ValidationError):
            GateSettings(**fields)


def test_a_promotion_reads_as_a_sentence_and_travels_as_json():
    promotion = Promotion(name="digits-resnet8", version="3", promoted=False, reasons=("worse",))
    assert str(promotion) == "digits-resnet8 version 3: challenger, not champion"
    assert Promotion.model_validate_json(promotion.model_dump_json()) == promotion


def test_a_champion_of_other_classes_serves_the_task_no_more(evaluation):
    """Its scores on its own test data say nothing of the new task; with passed verdicts the new one takes its place."""

    def answering(*classes, digest):
        measured = Subject(name="onnx", file="student.onnx", metric_by_class=dict.fromkeys(classes, 0.5))
        return evaluation(subjects=(measured,), test_digest=digest)

    decision = decide(answering("cat", "dog", "owl", digest="2"), answering("cat", "dog", digest="1"), GateSettings())
    assert decision.promote
    assert "other classes (cat, dog)" in decision.reasons[0]


def test_classes_are_those_of_the_task_not_those_that_test_happens_to_have(evaluation):
    def answering(*labels, seen, digest):
        measured = Subject(name="onnx", file="student.onnx", metric_by_class=dict.fromkeys(seen, 0.5))
        return evaluation(subjects=(measured,), labels=labels, test_digest=digest)

    before = answering("cat", "dog", "owl", seen=("cat", "dog"), digest="1")
    after = answering("cat", "dog", "owl", seen=("cat", "dog", "owl"), digest="2")
    assert not decide(after, before, GateSettings()).promote, "not comparable: other test data, same classes"
    turned = answering("dog", "cat", "owl", seen=("cat", "dog"), digest="2")
    assert "other classes (cat, dog, owl)" in decide(turned, before, GateSettings()).reasons[0]
    assert before.answers_as(("cat", "dog", "owl"))
    assert not before.answers_as(("cat", "owl", "dog"))
