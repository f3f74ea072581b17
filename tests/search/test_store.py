"""The store gives back what it was given, and nothing that was torn."""

import pytest

from pocketpipe.search.store import Outcome, TrialStore

OUTCOME = Outcome(plan_json="[]\n", score=0.1 + 0.2, seconds=1.5)


def test_round_trip_is_exact(tmp_path):
    TrialStore(tmp_path / "new").add_tried("a", OUTCOME)
    TrialStore(tmp_path / "new").add_tuned("[]\n", 1 / 3)
    store = TrialStore(tmp_path / "new")
    assert store.tried("a") == OUTCOME
    assert store.tuned("[]\n") == 1 / 3
    assert store.tried("b") is None
    assert store.tuned("b") is None


def test_nothing_is_written_before_the_first_result(tmp_path):
    TrialStore(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_every_possible_tear_of_the_last_line_is_survived(tmp_path):
    """Cut the file after each byte: the first entry stays, the last is whole or gone, and writing goes on."""
    store = TrialStore(tmp_path)
    store.add_tried("first", OUTCOME)
    whole = len((tmp_path / "trials.jsonl").read_bytes())
    store.add_tried("second", OUTCOME)
    content = (tmp_path / "trials.jsonl").read_bytes()
    for cut in range(whole, len(content) + 1):
        (tmp_path / "trials.jsonl").write_bytes(content[:cut])
        torn = TrialStore(tmp_path)
        assert torn.tried("first") == OUTCOME
        assert torn.tried("second") in (None, OUTCOME)
        torn.add_tried("third", OUTCOME)
        again = TrialStore(tmp_path)
        assert again.tried("first") == again.tried("third") == OUTCOME
        assert again.tried("second") == torn.tried("second")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\n", b"null\n", b"[1]\n", b"3\n"])
def test_foreign_lines_are_ignored(tmp_path, content):
    (tmp_path / "trials.jsonl").write_bytes(content)
    assert TrialStore(tmp_path).tried("a") is None
