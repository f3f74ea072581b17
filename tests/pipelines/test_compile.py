"""What an interrupted compile stage goes on from."""

from pathlib import Path

from pocketpipe.delivery.folder import MEASURED
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.pipelines.compile.nodes import _is_of, write_measured
from pocketpipe.task import Preprocessing


def metadata(**hashes: str) -> DeliveryMetadata:
    return DeliveryMetadata(
        task="digits", network="lenet", target="x86_64", input_shape=(1, 8, 8), input_dtype="uint8",
        preprocessing=Preprocessing(), labels=("a", "b"), hashes=hashes,
    )  # fmt: skip


def test_only_a_folder_of_the_very_same_sources_is_taken(tmp_path: Path) -> None:
    """A training that was made again may have other weights under the same fingerprint."""
    asked = metadata(onnx="1", plan="2")
    assert not _is_of(tmp_path / "none", asked)
    asked.model_copy(update={"hashes": {**asked.hashes, "model.so": "3"}}).write(tmp_path)
    assert _is_of(tmp_path, asked)
    assert not _is_of(tmp_path, metadata(onnx="another", plan="2"))


def test_figures_are_kept_for_a_target_without_a_readme(tmp_path: Path) -> None:
    """A target of one's own need not write one."""
    write_measured(tmp_path, {"milliseconds": 0.5})
    assert [file.name for file in tmp_path.iterdir()] == [MEASURED]
