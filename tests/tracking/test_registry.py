"""Versions, champion and rollback in a real registry."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pocketpipe.cli import cli
from pocketpipe.errors import UserError
from pocketpipe.tracking.describe import describe_champion, describe_champions
from pocketpipe.tracking.gates import Decision
from pocketpipe.tracking.registry import Registry
from pocketpipe.tracking.runs import RunTracker
from pocketpipe.tracking.store import Store

NAME = "digits-resnet8"
YES = Decision(promote=True, reasons=("not worse",))
NO = Decision(promote=False, reasons=("worse than the champion", "6 lost"))


@pytest.fixture
def registry(store: Store, tmp_path: Path) -> Registry:
    return Registry(store, tmp_path / "downloads")


@pytest.fixture
def add(registry: Registry, tmp_path: Path, evaluation):
    """Register a version whose files differ by `content`; the version."""

    def register(content: str, request: str = "f1", **changes: object) -> str:
        tracker = RunTracker(registry.store)
        run_id = tracker.start("compress", {})
        folder = tmp_path / f"files-{content}"
        (folder / "student").mkdir(parents=True, exist_ok=True)
        (folder / "student.onnx").write_text(content)
        (folder / "student" / "network.json").write_text("{}")
        version = registry.register(NAME, folder, evaluation(**changes), {"request": request}, run_id)
        tracker.end()
        return version

    return register


def crown(registry: Registry, version: str) -> None:
    """Promote a version beside whatever is champion."""
    assert registry.settle(NAME, version, YES, against=registry.champion_version(NAME)).promoted


def test_a_champion_comes_back_with_files_figures_and_reasons(registry: Registry, add, evaluation):
    assert registry.champion(NAME) is None
    version = add("one")
    assert registry.champion(NAME) is None
    promotion = registry.settle(NAME, version, YES, against=None)
    assert promotion.promoted
    champion = registry.champion(NAME)
    assert champion is not None
    assert champion.version == version == "1"
    assert champion.evaluation == evaluation()
    assert (champion.folder / "student.onnx").read_text() == "one"
    assert (champion.folder / "student" / "network.json").is_file()
    assert champion.reasons == ("not worse",)
    assert champion.tags["request"] == "f1"
    assert champion.tags["speedup"] == "2.500"
    assert registry.store.client.get_run(champion.run_id).info.status == "FINISHED"


def test_a_challenger_leaves_the_champion_and_has_its_reasons_on_it(registry: Registry, add):
    registry.settle(NAME, add("one"), YES, against=None)
    promotion = registry.settle(NAME, add("two"), NO, against="1")
    assert not promotion.promoted
    assert registry.champion_version(NAME) == "1"
    challenger = registry.store.client.get_model_version_by_alias(NAME, "challenger")
    assert str(challenger.version) == "2"
    assert challenger.tags["outcome"] == "challenger"
    assert challenger.tags["reasons"] == "worse than the champion\n6 lost"
    assert "worse than the champion" in challenger.description


def test_rollback_goes_back_through_all_champions_and_then_refuses(registry: Registry, add):
    for content in ("one", "two", "three"):
        crown(registry, add(content))
    assert registry.history(NAME) == ["1", "2", "3"]
    assert registry.rollback(NAME) == "2"
    assert registry.version(NAME, "3").tags["outcome"] == "rolled back to version 2"
    assert registry.rollback(NAME) == "1"
    assert registry.champion_version(NAME) == "1"
    with pytest.raises(UserError, match="no champion before it"):
        registry.rollback(NAME)


def test_mlflows_table_of_versions_calls_one_of_them_champion(registry: Registry, add):
    for content, against in (("one", None), ("two", "1"), ("three", "2")):
        registry.settle(NAME, add(content), YES, against=against)
    registry.rollback(NAME)
    titles = [registry.store.client.get_model_version(NAME, v).description.splitlines()[0] for v in "123"]
    assert titles == [
        "champion until version 2 (before: champion: not worse)",
        "champion (before: champion until version 3)",
        "rolled back to version 2 (before: champion: not worse)",
    ]


def test_a_promotion_of_an_earlier_run_is_told_as_it_is_now(registry: Registry, add):
    first = registry.settle(NAME, add("one"), YES, against=None)
    assert registry.as_of_now(first) == first
    second = registry.settle(NAME, add("two"), YES, against="1")
    assert str(registry.as_of_now(first)).endswith("version 1: challenger, not champion")
    assert registry.as_of_now(second) == second
    assert not registry.was_rolled_back(second)
    registry.rollback(NAME)
    assert registry.was_rolled_back(second)
    assert registry.as_of_now(first) == first


def test_a_slower_day_makes_no_new_version(registry: Registry, add, evaluation, verdict):
    """Times are measured anew by each run; everything else that is measured makes a version."""
    slow = evaluation().subject("onnx").model_copy(update={"latency_ms": 0.3})
    late = verdict("latency_ms", "failed")
    assert add("one") == "1"
    assert add("one", subjects=(slow,), verdicts=(*evaluation().verdicts, late)) == "1"
    crown(registry, "1")
    champion = registry.champion(NAME)
    assert champion is not None
    assert champion.evaluation.verdicts[-1] == late, "with the times of the latest run"
    assert champion.tags["budget_kept"] == "false"
    assert add("one", verdicts=(verdict("speedup", "failed"),)) == "2"
    assert add("one", scores=(1.0, 1.0, 0.0, 0.0)) == "3"


def test_rollback_skips_a_version_that_was_deleted(registry: Registry, add):
    for content in ("one", "two", "three"):
        crown(registry, add(content))
    registry.store.client.delete_model_version(NAME, "2")
    assert registry.rollback(NAME) == "1"


def test_rollback_helps_when_the_champion_itself_was_deleted(registry: Registry, add):
    for content in ("one", "two"):
        crown(registry, add(content))
    registry.store.client.delete_model_version(NAME, "2")
    assert registry.champion(NAME) is None
    assert registry.rollback(NAME) == "1"
    assert registry.champion_version(NAME) == "1"


def test_what_was_rolled_back_is_not_promoted_again_by_itself(registry: Registry, add):
    registry.settle(NAME, add("one"), YES, against=None)
    registry.settle(NAME, add("two"), YES, against="1")
    registry.rollback(NAME)
    again = registry.settle(NAME, add("two"), YES, against="1")
    assert not again.promoted
    assert "rolled back" in again.reasons[0]
    assert not registry.settle(NAME, "2", YES, against="1").promoted, "however often it is decided"
    registry.store.client.set_registered_model_alias(NAME, "champion", "2")  # a person may
    assert registry.champion_version(NAME) == "2"


def test_files_that_were_rolled_back_are_not_promoted_under_another_verdict(registry: Registry, add, verdict):
    """Another `accuracy_drop` makes another verdict and so another version, of the very files that a person left."""
    crown(registry, add("one"))
    crown(registry, add("two"))
    registry.rollback(NAME)
    assert add("two", verdicts=(verdict("accuracy_drop", "passed"),)) == "3"
    again = registry.settle(NAME, "3", YES, against="1")
    assert not again.promoted
    assert "rolled back" in again.reasons[0]
    assert registry.settle(NAME, add("three"), YES, against="1").promoted, "other files are"


def test_files_that_a_person_brought_back_are_not_barred(registry: Registry, add):
    crown(registry, add("one"))
    crown(registry, add("two"))
    registry.rollback(NAME)
    registry.store.client.set_registered_model_alias(NAME, "champion", "2")
    assert registry.settle(NAME, add("two", data="other test data"), YES, against="2").promoted


def test_a_champion_made_by_hand_is_called_one_once_it_is_decided_about(registry: Registry, add):
    crown(registry, add("one"))
    registry.settle(NAME, add("two"), NO, against="1")
    registry.store.client.set_registered_model_alias(NAME, "champion", "2")
    assert registry.settle(NAME, "2", YES, against="2").promoted
    version = registry.store.client.get_model_version(NAME, "2")
    assert version.tags["outcome"] == "champion"
    assert version.description.startswith("champion (before: challenger: worse than the champion)")


class Dropping:
    """A client whose server is gone at the write with number `last`."""

    def __init__(self, client: Any, last: int) -> None:
        self.client, self.left = client, last

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith(("set_", "update_", "delete_")):
            if self.left == 0:
                raise ConnectionError(name)
            self.left -= 1
        return getattr(self.client, name)


@pytest.fixture
def dropping(registry: Registry, tmp_path: Path) -> Callable[[int], Registry]:
    return lambda last: Registry(
        replace(registry.store, client=Dropping(registry.store.client, last)), tmp_path / "downloads"
    )


def state(registry: Registry) -> tuple[dict[str, str], list[str], list[str], list[str]]:
    """(aliases, champions, outcomes, first lines of the descriptions)."""
    client = registry.store.client
    aliases = {alias: str(v) for alias, v in client.get_registered_model(NAME).aliases.items()}
    versions = sorted(client.search_model_versions(f"name = '{NAME}'"), key=lambda v: int(v.version))
    outcomes = [version.tags.get("outcome", "") for version in versions]
    return aliases, registry.history(NAME), outcomes, [version.description.splitlines()[0] for version in versions]


@pytest.mark.parametrize("last", range(8))
def test_a_promotion_that_broke_off_is_repeated_to_the_same_end(registry: Registry, add, dropping, last: int):
    crown(registry, add("one"))
    registry.settle(NAME, add("two"), NO, against="1")
    with pytest.raises(ConnectionError):
        dropping(last).settle(NAME, "2", YES, against="1")
    assert registry.champion_version(NAME) == "1"
    assert registry.settle(NAME, "2", YES, against="1").promoted
    assert state(registry) == (
        {"champion": "2"},
        ["1", "2"],
        ["champion until version 2", "champion"],
        ["champion until version 2 (before: champion: not worse)", "champion: not worse"],
    )


@pytest.mark.parametrize("last", range(6))
def test_a_rollback_that_broke_off_is_repeated_to_the_same_end(registry: Registry, add, dropping, last: int):
    for content in ("one", "two", "three"):
        crown(registry, add(content))
    with pytest.raises(ConnectionError):
        dropping(last).rollback(NAME)
    assert registry.rollback(NAME) == "2"
    assert state(registry) == (
        {"champion": "2"},
        ["1", "2"],
        ["champion until version 2", "champion", "rolled back to version 2"],
        [
            "champion until version 2 (before: champion: not worse)",
            "champion (before: champion until version 3)",
            "rolled back to version 2 (before: champion: not worse)",
        ],
    )


def test_descriptions_and_histories_fit_a_databases_columns(registry: Registry, add, verdict):
    """PostgreSQL and MySQL have 5,000 characters for either; SQLite takes any."""
    client = registry.store.client
    add("one")
    client.set_registered_model_tag(NAME, "champion_history", json.dumps([str(n) for n in range(1000, 2000)]))
    wordy = tuple(verdict(f"requirement {n}", "not measured", "no emulator " * 10) for n in range(60))
    crown(registry, add("two", verdicts=wordy))
    crown(registry, add("three"))
    for version in "23":
        assert len(client.get_model_version(NAME, version).description) <= 5000
    assert len(client.get_registered_model(NAME).tags["champion_history"]) <= 5000
    assert registry.history(NAME)[-3:] == ["1999", "2", "3"]


def test_an_evaluation_of_a_newer_pocketpipe_is_one_line_that_names_the_version(registry: Registry, add):
    crown(registry, add("one"))
    champion = registry.champion(NAME)
    assert champion is not None
    file = champion.folder / "evaluation.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "colour": 1}))
    with pytest.raises(UserError, match=rf"{NAME}' version 1: .*evaluation.json \(colour: .*newer") as caught:
        registry.champion(NAME)
    assert "\n" not in str(caught.value)


def test_the_same_files_are_the_same_version(registry: Registry, add):
    assert add("one") == add("one", request="f2") == "1"
    assert registry.version(NAME, "1").tags["request"] == "f2"
    assert add("two") == "2"
    assert add("two", data="other test data") == "3"


def test_settling_twice_after_a_crash_changes_nothing(registry: Registry, add):
    first = registry.settle(NAME, add("one"), YES, against=None)
    again = registry.settle(NAME, "1", YES, against="1")
    assert first.promoted
    assert again.promoted
    assert registry.history(NAME) == ["1"]


def test_a_decision_against_a_champion_that_is_no_longer_one_does_not_count(registry: Registry, add):
    registry.settle(NAME, add("one"), YES, against=None)
    late = registry.settle(NAME, add("two"), YES, against=None)
    assert not late.promoted
    assert "became version 1 while this was decided" in late.reasons[0]


def test_a_champion_named_by_hand_on_mlflows_page_is_taken_into_the_history(registry: Registry, add):
    crown(registry, add("one"))
    add("two")
    registry.store.client.set_registered_model_alias(NAME, "champion", "2")
    assert registry.history(NAME) == ["1", "2"]
    assert registry.rollback(NAME) == "1"


def test_a_challenger_that_becomes_champion_is_no_challenger_any_more(registry: Registry, add):
    registry.settle(NAME, add("one"), NO, against=None)
    crown(registry, "1")
    assert list(registry.store.client.get_registered_model(NAME).aliases) == ["champion"]


def test_files_that_are_gone_are_named_with_a_way_out(registry: Registry, add):
    crown(registry, add("one"))
    champion = registry.champion(NAME)
    assert champion is not None
    (champion.folder / "evaluation.json").unlink()
    with pytest.raises(UserError, match=f"{NAME}' version 1: its files are gone"):
        registry.champion(NAME)


@pytest.mark.parametrize("act", ["champion", "rollback"])
@pytest.mark.parametrize("name", ["nobody", "no/body", ""])
def test_an_unknown_name_is_answered_with_those_that_are_known(registry: Registry, add, act: str, name: str):
    add("one")
    with pytest.raises(UserError, match=f"has no champion; names in the registry: {NAME}"):
        describe_champion(registry, name) if act == "champion" else registry.rollback(name)


def test_the_command_tells_the_folder_to_ship_from(registry: Registry, add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketpipe.tracking.opening.open_registry", lambda: registry)
    registry.settle(NAME, add("one"), YES, against=None)
    champion = registry.champion(NAME)
    assert champion is not None
    found = CliRunner().invoke(cli, ["champion", NAME, "--path"])
    assert (found.exit_code, found.output) == (0, f"{champion.folder}\n")
    nameless = CliRunner().invoke(cli, ["champion", "--path"])
    assert nameless.exit_code == 2
    assert f"--path: name a model; in the registry: {NAME}" in nameless.output


def test_a_model_without_a_champion_hides_no_other(registry: Registry, add):
    with pytest.raises(UserError, match="no model is registered yet"):
        describe_champions(registry)
    registry.settle(NAME, add("one"), YES, against=None)
    registry.store.client.create_registered_model("another-model")
    without, crowned = describe_champions(registry)
    assert without.startswith("'another-model' has no champion")
    assert crowned.startswith(f"{NAME} version 1 is the champion")


def test_an_unknown_version_is_one_line(registry: Registry, add):
    add("one")
    with pytest.raises(UserError, match="has no version 9"):
        registry.settle(NAME, "9", YES, against=None)


def test_the_champion_in_words(registry: Registry, add):
    registry.settle(NAME, add("one"), YES, against=None)
    words = describe_champion(registry, NAME).splitlines()
    assert words[0] == f"{NAME} version 1 is the champion"
    assert words[1] == "  accuracy: 0.7500 on test, 4 of 1,797 digits, seed 0"
    assert "  speedup: asked >= 2.00x MACs, got 2.50x on student.onnx: passed" in words
    assert "  weighed: not worse" in words


def test_what_is_not_there_is_not_had(registry: Registry, add) -> None:
    decided = registry.settle(NAME, add("one"), YES, against=None)
    assert registry.has(decided)
    for change in ({"version": "2"}, {"name": "another"}, {"content": "of another store"}):
        assert not registry.has(decided.model_copy(update=change))


def test_models_of_others_are_told_apart_before_anything_is_fetched(registry: Registry, add, monkeypatch):
    crown(registry, add("one"))
    client = registry.store.client
    for number in range(120):  # more than a page
        client.create_registered_model(f"other-{number:03d}")
    client.create_model_version("other-000", source="s3://bucket/theirs")
    client.set_registered_model_alias("other-000", "champion", "1")
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", lambda **_: pytest.fail("fetched"))
    assert len(registry.names()) == 121
    texts = describe_champions(registry)
    assert any("other-000' version 1 was not registered by pocketpipe" in text for text in texts)
    assert any("digits-resnet8 version 1 is the champion" in text for text in texts)


def test_a_refusal_says_beside_which_champion(registry: Registry, add):
    registry.settle(NAME, add("one"), YES, against=None)
    assert registry.settle(NAME, add("two"), NO, against="1").against == "1"


def test_scores_that_are_no_numbers_come_back(registry: Registry, add):
    version = add("one", scores=(1.0, float("nan"), float("inf"), 0.0))
    found = registry.version(NAME, version).evaluation.scores
    assert str(found) == "(1.0, nan, inf, 0.0)"
