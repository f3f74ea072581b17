"""Networks and splits on disk: what goes in comes out, equal bytes, and clear errors for broken files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketpipe import machine
from pocketpipe.errors import UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.storage import (
    appearing_whole,
    load_network,
    load_split,
    remove_whole,
    replacing,
    save_network,
    save_split,
    write_json,
)
from pocketpipe.task import Split

NETWORK = StoredNetwork("resnet8", {"b": 2, "a": 1}, state={"w": torch.ones(2, 3), "n": torch.tensor(7)})


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_a_network_comes_back_and_writes_equal_bytes(tmp_path: Path) -> None:
    save_network(NETWORK, tmp_path / "a")
    loaded = load_network(tmp_path / "a")
    assert loaded.digest() == NETWORK.digest()
    assert (loaded.reference, loaded.options, loaded.plan) == ("resnet8", {"a": 1, "b": 2}, NETWORK.plan)
    reordered = StoredNetwork("resnet8", {"a": 1, "b": 2}, state=dict(reversed(NETWORK.state.items())))
    save_network(reordered, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == {"network.json", "weights.safetensors"}


def test_a_network_without_weights(tmp_path: Path) -> None:
    save_network(StoredNetwork("resnet8"), tmp_path)
    assert load_network(tmp_path).state == {}


def test_channels_last_weights_are_stored_plain(tmp_path: Path) -> None:
    weights = torch.arange(24.0).reshape(2, 3, 2, 2)
    save_network(StoredNetwork("x", state={"w": weights}), tmp_path / "a")
    save_network(StoredNetwork("x", state={"w": weights.to(memory_format=torch.channels_last)}), tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_broken_networks_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the network"):
        load_network(tmp_path / "nowhere")
    save_network(NETWORK, tmp_path)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"weights\.safetensors: not the weights that network\.json describes"):
        load_network(tmp_path)
    (tmp_path / "network.json").write_text(json.dumps({"reference": "x"}))
    with pytest.raises(UserError, match="cannot read the network"):
        load_network(tmp_path)
    (tmp_path / "network.json").write_text("{")
    with pytest.raises(UserError, match="cannot read the network"):
        load_network(tmp_path)


def test_a_folder_goes_for_all_readers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_whole(tmp_path / "nothing there")
    folder = tmp_path / "value"
    save_network(NETWORK, folder)

    def killed(path: Path, **_: object) -> None:
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_whole(folder)
    assert not folder.exists()
    remove_whole(folder)
    save_network(NETWORK, folder)
    remove_whole(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_split_comes_back_and_writes_equal_bytes(tmp_path: Path) -> None:
    split = Split("val, 2 digits", np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2), np.array([3, 4]))
    save_split(split, tmp_path / "a.npz")
    save_split(split, tmp_path / "b.npz")
    loaded = load_split(tmp_path / "a.npz")
    assert (loaded.name, loaded.digest) == (split.name, split.digest)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert set(contents(tmp_path)) == {"a.npz", "b.npz"}


def test_broken_splits_are_named_and_objects_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    with pytest.raises(UserError, match="cannot read the split"):
        load_split(file)
    save_split(Split("s", np.zeros((2, 3)), np.zeros(2)), file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot read the split"):
        load_split(file)
    with pytest.raises(ValueError, match="allow_pickle"):
        save_split(Split("s", np.array([object()]), np.zeros(1)), tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()


def test_json_of_equal_content_is_equal_to_the_byte(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": None})
    write_json(tmp_path / "b.json", {"a": None, "b": [1, 2.5]})
    assert set(contents(tmp_path).values()) == {b'{\n  "a": null,\n  "b": [\n    1,\n    2.5\n  ]\n}\n'}


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text("old")

    def fail_halfway() -> None:
        with replacing(file) as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert contents(tmp_path) == {"figures.json": b"old"}


def test_folder_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    with appearing_whole(tmp_path / "a" / "out") as partial:
        (partial / "file").write_text("new")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "file").read_text() == "new"
    assert os.listdir(tmp_path / "a") == ["out"]


def test_error_leaves_what_was_there(tmp_path: Path) -> None:
    with appearing_whole(tmp_path / "out") as partial:
        (partial / "file").write_text("old")

    def fail_halfway() -> None:
        with appearing_whole(tmp_path / "out") as partial:
            (partial / "file").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_the_first_of_two_can_win(tmp_path: Path) -> None:
    with appearing_whole(tmp_path / "out", first_wins=True) as slower:
        (slower / "file").write_text("slower")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("first")
    assert (tmp_path / "out" / "file").read_text() == "first"
    assert os.listdir(tmp_path) == ["out"]


def test_left_overs_of_the_dead_are_removed_and_the_living_left_alone(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = machine.processes_known_as()
    alive = tmp_path / f".out.{here}.{os.getppid()}.partial"
    elsewhere = tmp_path / f".file.{here}.0123456789ab.{dead.pid}.partial"  # its process cannot be seen from here
    old, others = tmp_path / ".file.0123456789ab.1.partial", tmp_path / ".a.download.of.partial"
    for folder in (tmp_path / f".other.{here}.{dead.pid}.partial", alive):
        folder.mkdir()
    for file in (tmp_path / f".file.{here}.{dead.pid}.partial", elsewhere, old, others):
        file.touch()
    for file in (old, others):
        os.utime(file, (0, 0))
    with appearing_whole(tmp_path / "out"):
        pass
    assert {entry.name for entry in tmp_path.iterdir()} == {alive.name, elsewhere.name, others.name, "out"}
