"""CIFAR-10 from its real formats in miniature; what is broken or hostile is refused in one line."""

import hashlib
import os
import pickle
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketpipe.errors import UserError
from pocketpipe.task import Split, Task, TaskChoice
from tasks import miniature_cifar as miniature


def _task(data_root: Path, **options: object) -> Task:
    return TaskChoice(name="cifar10", options=options).build(data_root)


def _load(data_root: Path, **options: object) -> None:
    _task(data_root, **options).load(seed=0, holdout=None)


def test_a_folder_is_read_in_the_published_layout(tmp_path: Path) -> None:
    miniature.write_folder(tmp_path)
    splits, test = _task(tmp_path).load(seed=0, holdout=None)
    assert splits.train.name == "train, 90 of 100 CIFAR-10 training images, seed 0"
    assert splits.val.name == "val, 10 of 100 CIFAR-10 training images, seed 0"
    assert test.name == "test, 20 CIFAR-10 test images"
    assert test.inputs.shape == (20, 3, 32, 32)
    published = miniature.batch(5)
    np.testing.assert_array_equal(test.targets, published[b"labels"])
    # A row is red, green, blue, each 32 rows of 32.
    assert test.inputs[7, 1, 2, 3] == published[b"data"][7, 1024 + 2 * 32 + 3]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_archive_and_folder_are_the_same_data(tmp_path: Path, protocol: int) -> None:
    contents = miniature.files(protocol)
    miniature.write_folder(tmp_path / "a", contents)
    (tmp_path / "b").mkdir()
    md5 = miniature.write_archive(tmp_path / "b", contents)
    _, from_folder = _task(tmp_path / "a").load(seed=0, holdout=None)
    _, from_archive = _task(tmp_path / "b", archive_md5=md5).load(seed=0, holdout=None)
    assert from_folder.digest == from_archive.digest
    assert from_folder.inputs.flags.writeable  # as torch wants it
    assert [entry.name for entry in (tmp_path / "b").iterdir()] == ["cifar-10-python.tar.gz"]  # nothing unpacked


def test_the_source_digest_changes_with_the_data_alone(tmp_path: Path) -> None:
    folder = miniature.write_folder(tmp_path)
    before = _task(tmp_path).source_digest()
    os.utime(folder / "data_batch_3", (1, 1))
    assert _task(tmp_path).source_digest() == before
    (folder / "data_batch_3").write_bytes(pickle.dumps(miniature.batch(99), 2))
    assert _task(tmp_path).source_digest() != before


def test_limit_takes_equal_shares_and_says_so(tmp_path: Path) -> None:
    contents = {name: pickle.dumps(miniature.batch(seed, 200), 2) for seed, name in enumerate(miniature.files())}
    miniature.write_folder(tmp_path, contents)
    splits, test = _task(tmp_path, limit=100).load(seed=0, holdout="test_half")
    assert splits.train.name == "train, 90 of 100 CIFAR-10 training images (limited from 1,000), seed 0"
    assert test.name == "test, its other half: 50 of 100 CIFAR-10 test images (limited from 200)"
    assert np.bincount(test.targets).tolist() == [5] * 10


def test_augmentation_is_pad_crop_and_flip_of_whole_batches(tmp_path: Path) -> None:
    images = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    view = _task(tmp_path).augment(images, torch.Generator().manual_seed(0))
    assert view.shape == images.shape
    assert view.dtype == torch.uint8
    black = (view == 0).all(1)
    assert int(black.all(2).sum(1).max()) <= 4  # rows of padding
    assert int(black.any()) == 1


# What is broken or hostile


class _Payload:
    """Unpickled carelessly, it would create a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.witness),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    contents = {**miniature.files(), "data_batch_2": pickle.dumps({b"data": _Payload(witness)}, 2)}
    miniature.write_folder(tmp_path, contents)
    with pytest.raises(UserError, match=r"data_batch_2 is not a CIFAR-10 batch: it asks for posix.mkdir"):
        _load(tmp_path)
    assert not witness.exists()


def _member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = link
    return member


@pytest.mark.parametrize(
    "member",
    [
        _member("../outside", tarfile.REGTYPE),
        _member(f"{miniature.FOLDER}/../../outside", tarfile.REGTYPE),
        _member("/etc/outside", tarfile.REGTYPE),
        _member(f"{miniature.FOLDER}/data_batch_1", tarfile.SYMTYPE, "/etc/passwd"),
        _member(f"{miniature.FOLDER}/data_batch_1", tarfile.LNKTYPE, "/etc/passwd"),
        _member(f"{miniature.FOLDER}/data_batch_1", tarfile.FIFOTYPE),
    ],
    ids=["parent", "parent inside", "absolute", "symbolic link", "hard link", "fifo"],
)
def test_an_archive_that_points_outside_is_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    data_root = tmp_path / "data"
    data_root.mkdir()
    md5 = miniature.write_archive(data_root, more=[member])
    with pytest.raises(UserError, match=r"is refused: member '.*' is a link, a device or points outside"):
        _load(data_root, archive_md5=md5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]
    assert [entry.name for entry in data_root.iterdir()] == ["cifar-10-python.tar.gz"]


def test_an_archive_with_another_checksum_is_refused(tmp_path: Path) -> None:
    miniature.write_archive(tmp_path)
    with pytest.raises(UserError, match="instead of c58f30108f718f92721af3b95e74349a: it is incomplete or altered"):
        _load(tmp_path)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    """By its checksum; and where that was taken of the truncated file, by its contents."""
    md5 = miniature.write_archive(tmp_path)
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-5000])
    with pytest.raises(UserError, match="incomplete or altered"):
        _load(tmp_path, archive_md5=md5)
    with pytest.raises(UserError, match="cannot be read"):
        _load(tmp_path, archive_md5=hashlib.md5(archive.read_bytes()).hexdigest())


def _without(name: str) -> dict[str, bytes]:
    return {key: content for key, content in miniature.files().items() if key != name}


def _with(content: object) -> dict[str, bytes]:
    return {**miniature.files(), "test_batch": content if isinstance(content, bytes) else pickle.dumps(content)}


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (_without("data_batch_4"), "lacks data_batch_4"),
        (_with(miniature.files()["test_batch"][:-100]), "test_batch is not a CIFAR-10 batch: "),
        (_with(b""), "test_batch is not a CIFAR-10 batch: Ran out of input"),
        (_with(b"\x80\x02garbage"), "test_batch is not a CIFAR-10 batch"),
        (_with([1, 2]), "test_batch is not a CIFAR-10 batch"),
        (_with({b"labels": [1]}), "test_batch is not a CIFAR-10 batch: it has no b'data'"),
        (_with({b"labels": [1], b"data": np.zeros((2, 3072), np.uint8)}), "shape .2, 3072. and 1 labels"),
        (_with({b"labels": [1], b"data": np.zeros((1, 3072))}), "float64 data"),
        (_with({b"labels": [10], b"data": np.zeros((1, 3072), np.uint8)}), r"labels outside 0\.\.9"),
        (_with({b"labels": [], b"data": np.zeros((0, 3072), np.uint8)}), "no images"),
    ],
)
def test_a_broken_folder_is_one_line_that_names_the_file(tmp_path: Path, contents: dict[str, bytes], says: str) -> None:
    miniature.write_folder(tmp_path, contents)
    with pytest.raises(UserError, match=says) as caught:
        _load(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither cifar-10-batches-py/ nor .* `pocketpipe download cifar10`"):
        _task(tmp_path).source_digest()


# The real data, where it is


@pytest.fixture(scope="module")
def real_root() -> Path:
    root = Path(os.environ.get("POCKETPIPE_DATA", ""))
    if "POCKETPIPE_DATA" not in os.environ or not (root / miniature.FOLDER).is_dir():
        pytest.skip("POCKETPIPE_DATA names no folder with cifar-10-batches-py")
    return root


def test_the_real_splits(real_root: Path) -> None:
    splits, test = _task(real_root).load(seed=0, holdout="test_half")
    assert splits.holdout is not None

    def per_class(split: Split) -> list[int]:
        return np.bincount(split.targets).tolist()

    assert per_class(splits.train) == [4500] * 10
    assert per_class(splits.val) == per_class(splits.holdout) == per_class(test) == [500] * 10


def test_asking_for_the_digest_is_cheap(real_root: Path) -> None:
    task = _task(real_root)
    task.source_digest()
    start = time.perf_counter()
    task.source_digest()
    assert time.perf_counter() - start < 1.0  # 0.2 s on an idle machine
