"""The figures: they draw what is in the findings, and nothing outside changes them."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import ClassVar

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketpipe.plan import CompressionPlan
from pocketpipe.profile import NetworkProfile
from pocketpipe.reporting.drawing import PALETTE, inline
from pocketpipe.reporting.figures import MOST_CLASSES, classes_compared, figures, macs
from pocketpipe.reporting.report import render
from pocketpipe.reporting.search_figures import budget_terms, pareto
from reporting.sample import Thin, findings

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return figures(findings())


class WithoutBlock(Thin):
    """A step that takes whole layers out."""

    kind: ClassVar[str] = "reporting.test_figures:WithoutBlock"

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        layers = tuple(layer for layer in profile.layers if not layer.name.startswith("layer1"))
        groups = tuple(group for group in profile.groups if not group.name.startswith("layer1"))
        return profile.model_copy(update={"layers": layers, "groups": groups})


def test_one_figure_for_each_bounded_term_stage_and_view(drawn: dict[str, str]) -> None:
    assert list(drawn) == [
        "front-speedup", "front-compression", "search", "controls", "channels", "macs",
        "training-teacher", "training-finetune", "classes",
    ]  # fmt: skip


def test_each_is_an_svg_document_without_date_or_machine(drawn: dict[str, str]) -> None:
    for document in drawn.values():
        assert ElementTree.fromstring(document).tag == f"{SVG}svg"
        assert "Date" not in document
        assert "<metadata" not in document


def test_front_has_a_mark_for_every_trial_and_the_teacher(drawn: dict[str, str]) -> None:
    case = findings()
    for name in ("front-speedup", "front-compression"):
        assert len(_scattered(drawn[name])) == len(case.trials) + len(["teacher"])
        assert {"tuner", "uniform", "random", "ladder", "winner", "teacher, dense"} <= set(_texts(drawn[name]))
        assert "accuracy, before fine-tuning" in _texts(drawn[name])


def test_budget_line_is_the_dense_cost_over_the_limit() -> None:
    relative = budget_terms(findings())
    assert [(term.name, round(term.asked, 3)) for term in relative] == [("speedup", 2.5), ("compression", 2.0)]
    macs = findings().evaluation.teacher_cost.macs // 4
    absolute = replace(findings(), request={"budget": {"macs": macs}})
    assert [(term.name, round(term.asked, 3)) for term in budget_terms(absolute)] == [("speedup", 4.0)]


def test_flash_has_a_front_too_and_ram_where_it_is_known() -> None:
    dense = findings().dense_profile.cost()
    request = {"budget": {"flash_kb": {"cortex_m": dense.flash_bytes / 4096}, "ram_kb": {"cortex_m": 1}}}
    (flash,) = budget_terms(replace(findings(), request=request))
    assert dense.peak_ram_bytes is None
    assert flash.name == "flash"
    assert flash.asked == pytest.approx(4.0, rel=0.01)
    trial = findings().trials[0]
    half = trial.model_copy(update={"cost": dense.model_copy(update={"flash_bytes": dense.flash_bytes // 2})})
    assert flash.ratio(half) == pytest.approx(2.0, rel=0.01)
    page = render(replace(findings(), request=request))
    assert "Metric against flash, all trials" in page


def test_bars_name_what_each_group_and_layer_lost(drawn: dict[str, str]) -> None:
    case = findings()
    before, after = case.dense_profile.widths(), case.slim_profile.widths()
    shown = _texts(drawn["channels"])
    for name, was in before.items():
        assert (f"{was}" if was == after[name] else f"{was} → {after[name]}") in shown
        assert name in shown
    assert {layer.name for layer in case.dense_profile.layers} <= set(_texts(drawn["macs"]))


def test_layers_that_are_gone_are_drawn_as_nothing() -> None:
    plan = CompressionPlan((WithoutBlock(widths={}),))
    texts = _texts(macs(replace(findings(), plan=plan)))
    assert texts.count("147 k → 0") == 2
    assert "layer1.0.conv1" in texts


def test_outside_settings_of_matplotlib_neither_matter_nor_change(drawn: dict[str, str]) -> None:
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert figures(findings()) == drawn
        assert dict(matplotlib.rcParams) == before


def test_inlined_figures_take_all_colours_from_the_page(drawn: dict[str, str]) -> None:
    for name, document in drawn.items():
        element = inline(document, 'a "label"')
        assert element.startswith('<svg role="img" aria-label="a &quot;label&quot;"')
        assert set(re.findall(r"#[0-9a-f]{6}\b", element)) == set(), name
        assert set(re.findall(r"--figure-(\w+)", element)) <= set(PALETTE)
    with pytest.raises(ValueError, match="not an SVG"):
        inline("<html>", "x")


def test_of_many_classes_those_that_lost_most_are_shown() -> None:
    case = findings(labels=tuple(f"class {i}" for i in range(60)))
    chosen = classes_compared(case)
    teacher = case.evaluation.subject("teacher").metric_by_class
    student = case.evaluation.subject("student").metric_by_class
    loss = {name: teacher[name] - student[name] for name in teacher}
    assert len(chosen) == MOST_CLASSES
    assert min(loss[name] for name in chosen) >= max(loss[name] for name in loss.keys() - chosen.keys())


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1), st.booleans())
def test_front_is_what_no_other_point_beats(points: list[tuple[float, float]], higher_is_better: bool) -> None:
    sign = 1 if higher_is_better else -1

    def beaten(point: tuple[float, float]) -> bool:
        return any(p[0] >= point[0] and sign * p[1] >= sign * point[1] and p != point for p in points)

    assert pareto(points, higher_is_better) == sorted({point for point in points if not beaten(point)})


def _texts(document: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(document).iter(f"{SVG}text")]


def _scattered(document: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(document)
    collections = [
        group
        for axes in root.iter(f"{SVG}g")
        if axes.get("id", "").endswith("-axes_1")
        for group in axes
        if "PathCollection" in group.get("id", "")
    ]
    return [use for group in collections for use in group.iter(f"{SVG}use")]
