"""Verify and trace on a tree of outputs as a run leaves it."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pocketpipe.cli import cli
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import UserError
from pocketpipe.lineage.ancestry import ancestry, made_around
from pocketpipe.lineage.provenance import provenance_now, write_provenance
from pocketpipe.lineage.verify import trace, verify
from pocketpipe.plan import CompressionPlan
from pocketpipe.storage import save_split
from pocketpipe.task import Preprocessing, Split

STAGE_OF = {"splits": "data", "plan": "search", "student_onnx": "export", "deliveries": "compile"}
INPUTS_OF = {"splits": (), "plan": ("splits",), "student_onnx": ("plan",), "deliveries": ("student_onnx", "plan")}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def made(root: Path, name: str, fingerprint: str) -> Path:
    folder = root / STAGE_OF[name] / name / fingerprint
    folder.mkdir(parents=True)
    inputs = {parent: f"{parent}-2" for parent in INPUTS_OF[name]}
    provenance = provenance_now(
        fingerprint=fingerprint, inputs=inputs, stage=STAGE_OF[name], engines=["numpy"], run="run-7", code="c0de" * 16
    )
    write_provenance(folder, provenance)
    return folder


@pytest.fixture
def delivery(tmp_path: Path) -> Path:
    """A delivery folder in the outputs of its second run; those of the first lie beside."""
    root = tmp_path / "outputs"
    data = Split("train", np.arange(12, dtype=np.uint8).reshape(3, 4), np.array([0, 1, 0]))
    for run in (1, 2):
        save_split(data.take(np.arange(run, 3)), made(root, "splits", f"splits-{run}") / "train.npz")
        (made(root, "plan", f"plan-{run}") / "plan.json").write_text(CompressionPlan().to_json() + "\n" * run)
        (made(root, "student_onnx", f"student_onnx-{run}") / "student.onnx").write_bytes(b"onnx" * run)
    folder = made(root, "deliveries", "deliveries-2") / "content" / "x86_64"
    (folder / "runner").mkdir(parents=True)
    (folder / "model.so").write_bytes(b"library")
    (folder / "runner" / "main.c").write_text("int main(void) { return 0; }\n")
    DeliveryMetadata(
        task="digits",
        network="resnet8",
        target="x86_64",
        input_shape=(4,),
        preprocessing=Preprocessing(),
        labels=("0", "1"),
        hashes={
            "onnx": sha256(root / "export/student_onnx/student_onnx-2/student.onnx"),
            "plan": sha256(root / "search/plan/plan-2/plan.json"),
            "train_data": data.take(np.arange(2, 3)).digest,
            "model.so": sha256(folder / "model.so"),
            "runner/main.c": sha256(folder / "runner" / "main.c"),
        },
    ).write(folder)
    return folder


def statuses(folder: Path) -> dict[str, str]:
    return {finding.what: finding.status for finding in verify(folder)}


def test_untouched_delivery_is_unchanged_in_every_part(delivery: Path) -> None:
    expected = ["model.so", "runner/main.c", "onnx", "plan", "train_data"]
    assert statuses(delivery) == dict.fromkeys(expected, "unchanged")
    assert all(finding.ok for finding in verify(delivery))


def test_one_flipped_bit_a_missing_and_a_strange_file_are_found(delivery: Path) -> None:
    library = bytearray((delivery / "model.so").read_bytes())
    library[3] ^= 1
    (delivery / "model.so").write_bytes(library)
    (delivery / "runner" / "main.c").unlink()
    (delivery / "runner" / "extra.so").write_bytes(b"")
    found = {finding.what: finding for finding in verify(delivery)}
    assert found["model.so"].status == "changed"
    assert sha256(delivery / "model.so") in str(found["model.so"])
    assert found["runner/main.c"].status == "missing"
    assert found["runner/extra.so"].status == "no hash"
    assert [name for name, finding in found.items() if not finding.ok] == ["model.so", "runner/main.c"]


def test_changed_sources_are_found(delivery: Path) -> None:
    root = delivery.parents[4]
    (root / "search/plan/plan-2/plan.json").write_text("[]")
    train = root / "data/splits/splits-2/train.npz"
    shutil.copy(root / "data/splits/splits-1/train.npz", train)
    found = statuses(delivery)
    assert (found["plan"], found["train_data"], found["onnx"]) == ("changed", "changed", "unchanged")


def test_of_a_copy_the_files_alone_are_compared(delivery: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(delivery, copy)
    assert statuses(copy)["onnx"] == "not compared"
    assert all(finding.ok for finding in verify(copy))


def test_ancestry_follows_the_fingerprints_that_were_used(delivery: Path) -> None:
    origin = made_around(delivery)
    assert origin is not None
    family = ancestry(origin)
    assert list(family) == ["deliveries", "student_onnx", "plan", "splits"]
    assert {made.folder.name for made in family.values()} == {"deliveries-2", "plan-2", "student_onnx-2", "splits-2"}


def test_trace_leads_to_plan_data_and_code(delivery: Path) -> None:
    lines = trace(delivery)
    assert lines[0] == "delivery: resnet8 for task digits, target x86_64"
    root = delivery.parents[4]
    digest = sha256(root / "search/plan/plan-2/plan.json")
    assert f"plan: SHA-256 {digest} search/plan/plan-2/plan.json: unchanged" in lines
    assert any(line.startswith("onnx: ") and line.endswith("student_onnx-2/student.onnx: unchanged") for line in lines)
    assert any(line.startswith("train_data: ") and line.endswith("train.npz: unchanged") for line in lines)
    stages = [line.partition(":")[0] for line in lines if line.startswith("stage")]
    assert stages == ["stage compile", "stage export", "stage search", "stage data"]
    assert all("run run-7" in line and f"numpy {np.__version__}" in line for line in lines if line.startswith("stage"))
    assert "code c0dec0dec0de" in lines[-1]
    assert str(root) not in "\n".join(lines)


def test_trace_finds_where_a_copy_was_made(delivery: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(delivery, copy)
    assert "made: unknown" in trace(copy)[-1]
    assert trace(copy, tmp_path / "outputs") == trace(delivery)


def test_latest_is_followed(delivery: Path) -> None:
    latest = delivery.parents[2] / "latest"
    latest.symlink_to("deliveries-2")
    assert trace(latest / "content" / "x86_64") == trace(delivery)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for ask in (verify, trace):
        with pytest.raises(UserError, match="is no delivery folder"):
            ask(tmp_path)


def test_files_of_that_name_that_are_others_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "app" / "models" / "x86_64"
    folder.mkdir(parents=True)
    (tmp_path / "app" / "provenance.json").write_text('{"_type": "https://in-toto.io/Statement/v1"}')
    assert made_around(folder) is None


def test_verify_ends_with_1_where_a_file_is_not_what_was_checked(delivery: Path) -> None:
    fine = CliRunner().invoke(cli, ["verify", str(delivery)])
    assert fine.exit_code == 0
    assert "model.so: unchanged" in fine.output
    (delivery / "model.so").write_bytes(b"another")
    changed = CliRunner().invoke(cli, ["verify", str(delivery)])
    assert changed.exit_code == 1
    assert "model.so: changed" in changed.output


def test_trace_tells_plan_and_data(delivery: Path) -> None:
    traced = CliRunner().invoke(cli, ["trace", str(delivery)])
    assert traced.exit_code == 0
    assert traced.output.startswith("delivery: resnet8 for task digits, target x86_64")
    assert "stage search: fingerprint plan-2" in traced.output
