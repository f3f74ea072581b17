"""The delivery folder as a whole: complete or not there, the same to the byte, and clear about what it refuses."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from onnx import TensorProto

from pocketpipe.delivery.folder import MEASURED, README
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import NotMeasured, UserError
from pocketpipe.lineage.verify import verify
from pocketpipe.pipelines.compile.nodes import write_measured
from pocketpipe.targets.base import TARGETS
from targets.graphs import Graph, examples, gru, metadata, reference, residual, tiny

SHAPE = (3, 8, 8)
NEEDS_QEMU = "needs qemu-aarch64: apt-get install qemu-user"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `tiny`, for this machine. Who changes files copies it."""
    folder = tmp_path_factory.mktemp("delivery") / "out"
    TARGETS.resolve("x86_64").compile(tiny(), metadata(SHAPE, "x86_64"), folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("target", "onnx"), [("x86_64", residual((5, 12))), ("aarch64", tiny())], ids=["x86_64", "aarch64"]
)
def test_same_file_gives_same_bytes(tmp_path: Path, target: str, onnx: bytes) -> None:
    for name in ("first", "second/elsewhere"):
        TARGETS.resolve(target).compile(onnx, metadata(SHAPE, target), tmp_path / name)
    first, second = files(tmp_path / "first"), files(tmp_path / "second" / "elsewhere")
    assert first == second
    assert not [name for name, data in first.items() if str(tmp_path).encode() in data]


@pytest.mark.parametrize("onnx", [residual((5, 12)), gru(4, 8, 10)], ids=["residual", "gru"])
def test_arm_gives_what_onnx_runtime_gives(tmp_path: Path, onnx: bytes) -> None:
    shape = SHAPE if onnx == residual((5, 12)) else (4, 8)
    target, inputs = TARGETS.resolve("aarch64"), examples(shape, count=5)
    target.compile(onnx, metadata(shape, "aarch64"), tmp_path / "out")
    try:
        outputs = target.run(tmp_path / "out", inputs)
    except NotMeasured:
        pytest.skip(NEEDS_QEMU)
    np.testing.assert_allclose(outputs, reference(onnx, inputs), atol=1e-5)


def test_without_emulator_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS.resolve("aarch64")
    if not target.emulated:
        pytest.skip("this machine is an ARM itself")
    target.compile(tiny(), metadata(SHAPE, "aarch64"), tmp_path / "out")
    told = (tmp_path / "out" / README).read_text().split("```sh\n")[1].splitlines()[1]
    assert told.startswith("./runner input.bin output.f32"), "a board needs no emulator"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotMeasured, match="apt-get install qemu-user"):
        target.run(tmp_path / "out", examples(SHAPE))


def test_folder_knows_where_it_comes_from(folder: Path) -> None:
    delivered = DeliveryMetadata.read(folder)
    assert delivered.output_shape == (10,)
    assert delivered.hashes["onnx"] == "0" * 64
    assert delivered.footprint is not None
    assert delivered.footprint.library == (folder / "model.so").stat().st_size
    assert set(delivered.engines) >= {"apache-tvm"}
    findings = {finding.what: finding.status for finding in verify(folder)}
    assert findings["model.so"] == findings["libmodel.a"] == findings["runner.c"] == "unchanged"


def test_readme_tells_what_was_measured_last(folder: Path, tmp_path: Path) -> None:
    """With a time in it no two machines have the same README: nothing holds it against a hash."""
    copied = Path(shutil.copytree(folder, tmp_path / "out"))
    before = (copied / README).read_text()
    write_measured(copied, {"milliseconds": 0.25})
    write_measured(copied, {"milliseconds": 0.125, "instructions": 7_100_000.0})
    text = (copied / README).read_text()
    assert text.startswith(before)
    assert "files but `measured.json` and this one" in text
    assert text.count("## Measured") == 1
    assert "| milliseconds (median of calls on that host) | 0.125 |" in text
    assert "| executed instructions (counted by an emulator) | 7,100,000 |" in text
    assert json.loads((copied / MEASURED).read_text()) == {"milliseconds": 0.125, "instructions": 7_100_000.0}
    assert {each.what for each in verify(copied) if each.status == "no hash"} == {README, MEASURED}
    assert all(each.ok for each in verify(copied))


def test_delivered_runner_builds_and_runs_as_the_readme_says(folder: Path, tmp_path: Path) -> None:
    inputs, copied = examples(SHAPE), Path(shutil.copytree(folder, tmp_path / "out"))
    build, run = (copied / "README.md").read_text().split("```sh\n")[1].splitlines()[:2]
    inputs.tofile(copied / "input.bin")
    zig = f"{sys.executable} -m ziglang cc"  # `cc` may be missing here
    for line in (build.replace("cc", zig, 1), run):
        subprocess.run(line, shell=True, cwd=copied, check=True)
    np.testing.assert_allclose(
        np.fromfile(copied / "output.f32", np.float32).reshape(-1, 10), reference(tiny(), inputs), atol=1e-5
    )


def test_operator_that_cannot_be_compiled_is_named(tmp_path: Path) -> None:
    graph = Graph((4,))
    relu = graph.op("Relu", "input")
    onnx = graph.finish(graph.op("StringNormalizer", relu))
    with pytest.raises(UserError, match="node 'node1': operator StringNormalizer cannot be compiled") as refusal:
        TARGETS.resolve("x86_64").compile(onnx, metadata((4,), "x86_64"), tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_lstm_is_refused_with_its_node(tmp_path: Path) -> None:
    graph = Graph((3, 4))
    weights = graph.weight(1, 20, 4), graph.weight(1, 20, 5)
    onnx = graph.finish(graph.op("LSTM", "input", *weights, hidden_size=5))
    with pytest.raises(UserError, match=r"'node0': operator LSTM") as refusal:
        TARGETS.resolve("x86_64").compile(onnx, metadata((3, 4), "x86_64"), tmp_path / "out")
    assert "\n" not in str(refusal.value)


def test_an_output_of_another_type_is_refused(tmp_path: Path) -> None:
    """Eight bytes a number: more than the caller has room for."""
    graph = Graph((4,))
    onnx = graph.finish(graph.op("ArgMax", graph.linear("input", 4, 5), axis=1), kind=TensorProto.INT64)
    with pytest.raises(UserError, match="output 'value1_0' of the ONNX file is int64, not float32"):
        TARGETS.resolve("x86_64").compile(onnx, metadata((4,), "x86_64"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_other_shape_than_the_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one example of task 'made up' is"):
        TARGETS.resolve("x86_64").compile(tiny(), metadata((3, 9, 9), "x86_64"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["x86_64", "aarch64"])
def test_no_compiler_is_said_before_any_work(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TARGETS.resolve(target).check()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=f"no C compiler for {target}; `pip install ziglang` brings one"):
        TARGETS.resolve(target).check()


def test_gnu_compiler_does_where_ziglang_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketpipe.delivery.compiling.importlib.util.find_spec", lambda name: None)
    try:
        TARGETS.resolve("x86_64").check()
    except UserError:
        pytest.skip("needs gcc")
    onnx, inputs = tiny(), examples(SHAPE)
    TARGETS.resolve("x86_64").compile(onnx, metadata(SHAPE, "x86_64"), tmp_path / "out")
    assert any("gcc" in engine for engine in DeliveryMetadata.read(tmp_path / "out").engines)
    np.testing.assert_allclose(
        TARGETS.resolve("x86_64").run(tmp_path / "out", inputs), reference(onnx, inputs), atol=1e-5
    )


COMPILE = """
import sys
from pathlib import Path
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.targets.base import TARGETS
onnx, metadata, folder = (Path(argument) for argument in sys.argv[1:])
TARGETS.resolve("x86_64").compile(onnx.read_bytes(), DeliveryMetadata.model_validate_json(metadata.read_text()), folder)
"""


def test_killed_compile_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    onnx, folder = tiny(), tmp_path / "work" / "out"
    (tmp_path / "onnx").write_bytes(onnx)
    (tmp_path / "metadata").write_text(metadata(SHAPE, "x86_64").model_dump_json())
    arguments = [sys.executable, "-c", COMPILE, str(tmp_path / "onnx"), str(tmp_path / "metadata"), str(folder)]
    process = subprocess.Popen(arguments)
    until = monotonic() + 60
    while not list(folder.parent.glob(".out.*.partial")):
        assert process.poll() is None
        assert monotonic() < until
        sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    TARGETS.resolve("x86_64").compile(onnx, metadata(SHAPE, "x86_64"), folder)
    assert [entry.name for entry in folder.parent.iterdir()] == ["out"]
    assert json.loads((folder / "metadata.json").read_text())["output_shape"] == [10]
