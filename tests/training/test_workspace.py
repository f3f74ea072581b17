"""A workspace belongs to one training, however the one before it ended."""

import shutil
from pathlib import Path

import pytest

from pocketpipe.network import StoredNetwork
from pocketpipe.training.curves import Curves
from pocketpipe.training.workspace import Workspace


def test_a_kill_while_it_is_cleared_leaves_no_result_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Workspace(tmp_path / "work")
    place.open_for("one")
    Curves().save(place.curves)
    place.finish(StoredNetwork("resnet8"), {"of": "one"})
    assert place.result() is not None

    def killed(folder: Path, **_: object) -> None:
        """Folders are cleared in any order; here its owner's name goes first."""
        if folder.exists():
            (folder / "job.sha256").unlink(missing_ok=True)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            place.open_for("another")
    place.open_for("another")
    assert place.result() is None
    assert [file.name for file in place.folder.iterdir()] == ["job.sha256"]


def test_the_same_training_goes_on(tmp_path: Path) -> None:
    place = Workspace(tmp_path / "work")
    place.open_for("one")
    place.checkpoint.write_text("half")
    place.open_for("one")
    assert place.checkpoint.exists()
