"""Fresh datasets: there and fresh, whole or not at all, no pickle."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kedro.io import DatasetError

from pocketpipe.datasets.fresh import BytesDataset, FolderDataset, JsonDataset, TextDataset
from pocketpipe.datasets.values import PlanDataset, SplitDataset, SplitsDataset
from pocketpipe.lineage.provenance import provenance_now
from pocketpipe.plan import CompressionPlan
from pocketpipe.record import StageRecord
from pocketpipe.task import Split, Splits


def split(name: str, count: int = 4) -> Split:
    generator = np.random.default_rng(0)
    return Split(name, generator.integers(0, 9, (count, 1, 2, 2), np.uint8), np.arange(count))


def test_each_fingerprint_has_its_own_value(tmp_path: Path) -> None:
    dataset = TextDataset(str(tmp_path / "report"), file="report.html")
    dataset.fingerprint = "aaaa"
    dataset.save("first")
    dataset.fingerprint = "bbbb"
    assert not dataset.exists()
    dataset.save("second")
    dataset.fingerprint = "aaaa"
    assert dataset.exists()
    assert dataset.load() == "first"
    assert (tmp_path / "report" / "latest" / "report.html").read_text() == "second"


def test_the_first_value_of_a_fingerprint_stays(tmp_path: Path) -> None:
    dataset = BytesDataset(str(tmp_path / "onnx"), file="student.onnx")
    dataset.fingerprint = "aaaa"
    dataset.save(b"one run")
    dataset.save(b"another run, slower")
    assert dataset.load() == b"one run"


def test_what_is_outdated_counts_as_absent_and_is_replaced(tmp_path: Path) -> None:
    def dataset(run: str) -> BytesDataset:
        found = BytesDataset(str(tmp_path / "onnx"), file="student.onnx")
        found.fingerprint = "aaaa"
        found.provenance = provenance_now(fingerprint="aaaa", inputs={}, run=run)
        return found

    dataset("first").save(b"first")
    second, third = dataset("second"), dataset("third")
    for each in (second, third):
        each.outdated = each.stored_provenance()
        assert not each.exists()
    second.save(b"second")
    assert third.exists(), "another run was quicker"
    third.save(b"third")
    assert dataset("fourth").load() == third.load() == b"second"


@pytest.mark.parametrize("damage", ["gone", "cut short", "no list"])
def test_a_value_of_which_a_file_is_gone_counts_as_absent_and_is_made_again(tmp_path: Path, damage: str) -> None:
    def dataset() -> BytesDataset:
        found = BytesDataset(str(tmp_path / "onnx"), file="student.onnx")
        found.fingerprint = "aaaa"
        return found

    dataset().save(b"whole")
    (tmp_path / "onnx" / "aaaa" / "notes.txt").write_text("of the user")
    assert dataset().exists()
    file = dataset().path / ("files.json" if damage == "no list" else "student.onnx")
    file.unlink() if damage == "gone" else file.write_bytes(b"{")
    assert not dataset().exists()
    dataset().save(b"again")
    assert dataset().load() == b"again"


def test_what_has_an_order_keeps_it(tmp_path: Path) -> None:
    dataset = JsonDataset(str(tmp_path / "record"), value="pocketpipe.record:StageRecord")
    dataset.fingerprint = "aaaa"
    dataset.save(StageRecord(stage="data", metrics={"b": 1.0, "a": 2.0, "10": 3.0}))
    assert list(dataset.load().metrics) == ["b", "a", "10"]


def test_a_damaged_value_is_named_with_a_way_out(tmp_path: Path) -> None:
    dataset = JsonDataset(str(tmp_path / "record"), value="pocketpipe.record:StageRecord")
    dataset.fingerprint = "aaaa"
    dataset.save(StageRecord(stage="data"))
    file = dataset.path / "value.json"
    file.write_text("?" * file.stat().st_size)
    with pytest.raises(DatasetError, match=r"aaaa: damaged \(.*\); delete this folder and run again"):
        dataset.load()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    dataset = FolderDataset(str(tmp_path / "deliveries"))
    dataset.fingerprint = "aaaa"
    with pytest.raises(DatasetError):
        dataset.save(tmp_path / "no such folder")
    assert not dataset.exists()
    assert list((tmp_path / "deliveries").iterdir()) == []


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    killed = (
        "import os, sys; from pocketpipe.datasets.fresh import TextDataset; d = TextDataset(sys.argv[1], 'x.txt'); "
        "d.fingerprint = 'aaaa'; d._write = lambda data, folder: os.kill(os.getpid(), 9); d.save('')"
    )
    folder = tmp_path / "report"
    subprocess.run([sys.executable, "-c", killed, str(folder)], check=False)
    assert [path.name.startswith(".aaaa") for path in folder.iterdir()] == [True]
    dataset = TextDataset(str(folder), file="report.html")
    dataset.fingerprint = "bbbb"
    dataset.save("whole")
    assert {path.name for path in folder.iterdir()} == {"bbbb", "latest"}


def test_a_page_is_utf_8_whatever_the_locale_says(tmp_path: Path) -> None:
    """It says so itself; `EncodingWarning` is Python's own where a file's encoding is left to the locale."""
    saved = (
        "import sys; from pocketpipe.datasets.fresh import TextDataset; d = TextDataset(sys.argv[1], 'x.html'); "
        "d.fingerprint = 'aaaa'; d.save('2 \u2192 1'); assert d.load() == '2 \u2192 1'"
    )
    strict = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning:pocketpipe.datasets.fresh"]
    subprocess.run([sys.executable, *strict, "-c", saved, str(tmp_path)], check=True)
    assert (tmp_path / "aaaa" / "x.html").read_bytes() == "2 \u2192 1".encode()


def test_without_a_fingerprint_nothing_exists(tmp_path: Path) -> None:
    dataset = TextDataset(str(tmp_path / "report"), file="report.html")
    assert not dataset.exists()
    with pytest.raises(DatasetError, match="run the stage that makes it first"):
        dataset.load()


def test_values_come_back_equal(tmp_path: Path) -> None:
    record = StageRecord(stage="data", metrics={"a": 1.0}, curves={"loss": (2.0, 1.0)}, warnings=("mind",))
    as_json = JsonDataset(str(tmp_path / "record"), value="pocketpipe.record:StageRecord")
    plan = PlanDataset(str(tmp_path / "plan"))
    for dataset, value in ((as_json, record), (plan, CompressionPlan())):
        dataset.fingerprint = "aaaa"
        dataset.save(value)
        assert dataset.load() == value


@pytest.mark.parametrize("holdout", [None, split("holdout", 3)])
def test_splits_come_back_with_their_digests(tmp_path: Path, holdout: Split | None) -> None:
    splits = Splits(split("train"), split("val", 2), holdout)
    dataset = SplitsDataset(str(tmp_path / "splits"))
    dataset.fingerprint = "aaaa"
    dataset.save(splits)
    found = dataset.load()
    assert found.train.digest == splits.train.digest
    assert found.selection.name == splits.selection.name
    assert found.selection.digest == splits.selection.digest


def test_a_split_comes_back(tmp_path: Path) -> None:
    dataset = SplitDataset(str(tmp_path / "test_split"))
    dataset.fingerprint = "aaaa"
    dataset.save(split("test"))
    assert dataset.load().digest == split("test").digest


def test_a_copy_that_followed_links_is_put_right(tmp_path: Path) -> None:
    dataset = TextDataset(str(tmp_path / "report"), file="report.html")
    dataset.fingerprint = "aaaa"
    dataset.save("first")
    shutil.copytree(tmp_path / "report", tmp_path / "copied" / "report")  # as scp -r and zip do
    again = TextDataset(str(tmp_path / "copied" / "report"), file="report.html")
    again.fingerprint = "bbbb"
    assert not again.latest.is_symlink()
    again.save("second")
    assert again.latest.readlink() == Path("bbbb")
    assert (again.latest / "report.html").read_text() == "second"
