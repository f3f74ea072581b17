"""The page: what it says, that it loads nothing, and that it is the same bytes each time."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy.stats import binomtest

from pocketpipe.reporting.drawing import PALETTE
from pocketpipe.reporting.figures import figures
from pocketpipe.reporting.findings import Findings
from pocketpipe.reporting.report import paired_with_teacher, render
from pocketpipe.reporting.wording import standard_error
from reporting.sample import QEMU, TEST, VAL, findings

VOID = {"meta", "br", "img", "link", "hr", "input"}
FETCHING = {"src", "href", "xlink:href", "srcset", "data", "poster", "action", "background"}
WARNING = "the given weights have most likely seen val"
NEAREST = "trial 26 (ladder): 1.21x fewer MACs, accuracy 0.9705"


@cache
def drawn_once() -> dict[str, str]:
    """The figures of the sample; to draw them takes seconds."""
    return figures(findings())


@pytest.fixture
def same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what a page says, whatever it shows."""
    monkeypatch.setattr("pocketpipe.reporting.report.figures", lambda case: drawn_once())


def error_rate(case: Findings) -> Findings:
    """The same with a metric of which less is better."""
    return replace(case, evaluation=case.evaluation.model_copy(update={"higher_is_better": False}))


class Page(HTMLParser):
    """Tags (checked for balance), attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.policy = ""
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in FETCHING:
                self.references.append(value or "")
            if name == "content" and ("http-equiv", "Content-Security-Policy") in attrs:
                self.policy = value or ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module")
def kept() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pocketpipe.reporting.report.figures", lambda case: drawn_once())
        return render(findings())


def test_same_findings_give_same_bytes_in_another_process_too(kept: str) -> None:
    code = (
        "import hashlib; from reporting.sample import findings; from pocketpipe.reporting.report import render;"
        "print(hashlib.sha256(render(findings()).encode()).hexdigest())"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "4711"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(kept.encode()).hexdigest()


def test_page_is_balanced_and_its_ids_are_unique(kept: str) -> None:
    page = Page(kept)
    assert page.open == []
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []


def test_page_loads_nothing(kept: str) -> None:
    page = Page(kept)
    targets = page.references + re.findall(r"url\(([^)]*)\)", kept)
    assert targets, "figures reference their own parts"
    assert {target.lstrip("#") for target in targets} <= set(page.ids)
    assert all(target.startswith("#") for target in targets)
    assert not page.tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert "@import" not in kept
    assert page.policy.startswith("default-src 'none'")


def test_every_verdict_and_subject_is_shown_with_its_file(kept: str) -> None:
    evaluation, text = findings().evaluation, Page(kept).text
    for verdict in evaluation.verdicts:
        row = f"{verdict.requirement} {verdict.asked} {verdict.got} {verdict.file} ✓ {verdict.status}"
        assert squeezed(row) in squeezed(text)
    for subject in evaluation.subjects:
        worst = subject.worst()
        assert worst is not None
        assert subject.metric is not None
        row = f"{subject.name} {subject.file} {subject.examples} {subject.metric:.4f} {worst[0]}"
        assert squeezed(row) in squeezed(text)


@pytest.mark.usefixtures("same_figures")
def test_the_worst_class_is_the_one_with_the_highest_error() -> None:
    case = error_rate(findings())
    subject = case.evaluation.subject("onnx")
    highest = max(subject.metric_by_class, key=lambda name: subject.metric_by_class[name])
    row = f"{subject.name} {subject.file} {subject.examples} {subject.metric:.4f} {highest}"
    assert squeezed(row) in squeezed(Page(render(case)).text)


def test_integers_and_sizes_on_the_device_are_shown(kept: str) -> None:
    text = Page(kept).text
    assert "0 on 360" in text
    assert "x86_64 x86_64/model.so 41,234 B 9,216 B" in text


def test_kept_budget_is_the_first_thing_said(kept: str) -> None:
    text = Page(kept).text
    assert "Budget kept 3.08x fewer MACs" in text
    assert text.index("Budget kept 3.08x") < text.index("Was everything kept")
    assert "What would pass" not in text
    assert TEST in text
    assert VAL in text


@pytest.mark.usefixtures("same_figures")
def test_standard_error_of_the_metric_is_that_of_a_proportion(kept: str) -> None:
    share = 351 / 360  # 0.9750
    assert f"±{(share * (1 - share) / 359) ** 0.5:.4f}" in Page(kept).text


@pytest.mark.usefixtures("same_figures")
@pytest.mark.parametrize(("lost", "won", "told"), [(30, 5, True), (8, 5, False), (6, 0, True), (5, 0, False)])
def test_teacher_and_student_are_told_apart_by_the_examples_on_which_they_differ(
    lost: int, won: int, told: bool
) -> None:
    """Of 10,000 examples, whatever the standard error of either: that is 0.0030 here, all these drops are less."""
    right, wrong = (1.0,) * (9000 - lost), (0.0,) * (1000 - won)
    scores = {
        "teacher_scores": (*right, *(1.0,) * lost, *(0.0,) * won, *wrong),
        "scores": (*right, *(0.0,) * lost, *(1.0,) * won, *wrong),
    }
    case = findings()
    text = Page(render(replace(case, evaluation=case.evaluation.model_copy(update=scores)))).text
    assert f"won {won} and lost {lost}: exact sign test p = {binomtest(won, won + lost).pvalue:.3g}." in text
    assert ("cannot tell which of the two is better" not in text) == told


def test_an_error_that_rose_is_lost() -> None:
    case = error_rate(findings()).evaluation.model_copy(update={"scores": (2.0, 1.0), "teacher_scores": (1.0, 1.0)})
    assert paired_with_teacher(case) == (0, 1, 1.0)
    assert paired_with_teacher(case.model_copy(update={"teacher_scores": ()})) is None, "of an older run"


@pytest.mark.usefixtures("same_figures")
def test_the_metrics_tile_names_the_file_it_is_of(kept: str) -> None:
    assert "teacher 0.9778, -0.0028; on x86_64/model.so" in Page(kept).text


@pytest.mark.usefixtures("same_figures")
def test_a_search_whose_plans_were_not_taken_says_what_was_carried_out() -> None:
    case = findings()
    why = "the champion's, as no finalist keeps the budget"
    search = case.records["search"].model_copy(update={"facts": {"plan": why}})
    page = Page(render(replace(case, winner_index=None, records={**case.records, "search": search})))
    assert f"What was carried out is not taken from these: {why}." in page.text
    assert "Finalists beside controls of equal budget" in page.text
    assert "Finalists and controls as numbers" in page.text
    assert "The winner" not in page.text


@pytest.mark.usefixtures("same_figures")
def test_failed_budget_names_what_failed_and_the_nearest_plan() -> None:
    text = Page(render(findings(drop=0.0194, nearest=NEAREST, warnings=(WARNING, WARNING)))).text
    assert "Budget not kept accuracy_drop: asked accuracy drop <= 0.0100, got +0.0194" in text
    assert "on student.onnx and 2 more" in text
    assert f"What would pass: {NEAREST}" in text
    assert text.count(WARNING) == 1
    assert text.index("✗ failed") < text.index("✓ passed"), "what needs attention comes first"


@pytest.mark.usefixtures("same_figures")
def test_failed_budget_of_a_plan_that_was_kept_says_that_no_other_was_tried() -> None:
    kept = replace(findings(drop=0.0194), trials=(), winner_index=None)
    assert "No other plan was tried: the champion's was kept" in Page(render(kept)).text
    assert "No other plan was tried" not in Page(render(findings(drop=0.0194))).text, "a device's limit was missed, say"


@pytest.mark.usefixtures("same_figures")
def test_a_training_is_shown_with_the_data_of_its_curves() -> None:
    """The figures of its record may be of a hold-out, which no curve looks at."""
    found = findings()
    record = found.records["finetune"].model_copy(update={"curves_of": "train (loss); val of the curves (metric)"})
    text = Page(render(replace(found, records={**found.records, "finetune": record}))).text
    assert "Training: finetune On train (loss); val of the curves (metric)" in " ".join(text.split())


@pytest.mark.usefixtures("same_figures")
def test_unmeasured_target_is_shown_with_the_way_to_measure_it() -> None:
    text = Page(render(findings(arm_measured=False))).text
    assert "Budget kept as far as it was measured" in text
    assert "Not measured here: aarch64/model.so" in text
    assert f"aarch64 aarch64/model.so ? not measured {QEMU}" in text
    assert text.count("? not measured") == 3, "two verdicts and a subject"


def test_hostile_names_are_only_text() -> None:
    labels = ("<script>alert(1)</script>", "$x_", "a&b", '" onload="x', "犬")
    html = render(replace(findings(labels=labels), title="<b>bold</b>"))
    page = Page(html)
    assert page.open == []
    assert page.tags["script"] == page.tags["b"] == 0
    assert "onload" not in re.sub(r">[^<]*<", "><", html), "not an attribute of anything"
    for label in labels:
        assert label in page.text


def test_plan_that_was_not_searched_for() -> None:
    page = Page(render(replace(findings(), trials=(), winner_index=None, dense_score=None)))
    assert "No search in this run" in page.text
    assert not {"search", "controls", "front-speedup"} & set(page.ids)


def test_given_weights_have_no_curves() -> None:
    case = findings()
    records = {name: record for name, record in case.records.items() if name != "teacher"}
    page = Page(render(replace(case, records=records)))
    assert "teacher: no training in this run; its weights were given" in page.text
    assert "training-finetune" in page.ids


@pytest.mark.usefixtures("same_figures")
def test_controls_are_marked_before_fine_tuning_unless_they_got_it(kept: str) -> None:
    case = findings()
    uniform = next(trial for trial in case.trials if trial.origin == "uniform")
    row = f"{uniform.index} uniform {uniform.speedup:.2f}x {uniform.compression:.2f}x {uniform.score:.4f}"
    assert f"{row} not fine-tuned" in Page(kept).text
    tuned = [t.model_copy(update={"tuned_score": 0.9321}) if t is uniform else t for t in case.trials]
    assert f"{row} 0.9321" in Page(render(replace(case, trials=tuned))).text


@pytest.mark.usefixtures("same_figures")
def test_request_plan_and_digests_are_there_to_repeat_the_run(kept: str) -> None:
    case, text = findings(), Page(kept).text
    assert "budget: {speedup: 2.5, compression: 2.0, accuracy_drop: 0.01}" in text
    assert '"kind": "reporting.sample:Thin"' in text
    assert text.count(case.evaluation.test_digest) == 1
    assert all(value in text for value in case.facts.values())
    again = replace(case, facts={"test split (sha256)": case.evaluation.test_digest})
    assert Page(render(again)).text.count(case.evaluation.test_digest) == 1


def test_page_says_no_time(kept: str) -> None:
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", Page(kept).text)


def test_every_colour_of_the_figures_has_a_dark_one(kept: str) -> None:
    light, dark = kept.split("prefers-color-scheme: dark", 1)
    for name, colour in PALETTE.items():
        assert f"--figure-{name}: {colour};" in light
        assert f"--figure-{name}: #" in dark
        assert colour not in dark, "figures use the properties alone"


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_have_no_standard_error(wrong: float) -> None:
    assert standard_error([1.0, wrong, 0.0]) is None
    assert standard_error([1.0]) is None
