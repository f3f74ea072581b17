"""Bytes on the way and at rest, measured on files; the files as `pocketpipe pack` and `unpack` write them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from pocketpipe.cli import cli
from pocketpipe.errors import UserError
from pocketpipe.exporting.packing import pack, unpack
from pocketpipe.exporting.transport import delivered_cost


def linear(weight: np.ndarray) -> bytes:
    """A file of one MatMul."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in ("x", "y")]
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([product], "graph", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    made: bytes = helper.make_model(graph).SerializeToString()
    return made


DENSE = linear(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
FEW = linear(np.random.default_rng(0).choice([-1, 0, 1], (64, 64)).astype(np.float32))


def test_the_smaller_file_travels_and_the_onnx_file_is_resident() -> None:
    cost = delivered_cost(FEW, pack(FEW), "student.onnx")
    assert cost.file_bytes == len(pack(FEW)) < 0.15 * len(FEW)
    assert (cost.resident_bytes, cost.transport_file) == (len(FEW), "student.packed.safetensors")
    assert (cost.macs, cost.source) == (64 * 64, "measured on student.onnx")
    dense = delivered_cost(DENSE, pack(DENSE), "teacher.onnx")
    assert (dense.file_bytes, dense.transport_file) == (len(DENSE), "teacher.onnx")


def test_a_packed_file_of_something_else_is_refused() -> None:
    with pytest.raises(UserError, match=r"student\.packed\.safetensors does not unpack to student\.onnx"):
        delivered_cost(FEW, pack(DENSE), "student.onnx")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "net.onnx").write_bytes(FEW)
    return tmp_path / "net.onnx"


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_pack_and_unpack_from_the_command_line(file: Path) -> None:
    code, output = run("pack", file)
    packed = file.with_name("net.packed.safetensors")
    assert code == 0
    assert unpack(packed.read_bytes()) == FEW
    assert "bitmask + palette of 2, 1 bits" in output
    assert f"{len(FEW):,}" in output
    file.unlink()
    code, output = run("unpack", packed)
    assert (code, file.read_bytes()) == (0, FEW)
    onnx.checker.check_model(onnx.load(file))


def test_nothing_is_overwritten_unasked(file: Path) -> None:
    other = file.with_name("other.bin")
    other.write_bytes(b"precious")
    code, output = run("pack", file, "-o", other)
    assert (code, other.read_bytes()) == (2, b"precious")
    assert output.strip() == f"{other}: there already; overwrite it with --force, or give another name with -o"
    assert run("pack", file, "-o", other, "--force")[0] == 0
    assert unpack(other.read_bytes()) == FEW
    assert "same file" in run("pack", file, "-o", file, "--force")[1]
    assert "there is no folder" in run("pack", file, "-o", file.parent / "none" / "x")[1]


@pytest.mark.parametrize(("command", "says"), [("pack", "not an ONNX file"), ("unpack", "not a file that pocketpipe")])
def test_foreign_files_are_refused_by_name(command: str, says: str, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.bin"
    foreign.write_bytes(b"neither this nor that")
    code, output = run(command, foreign)
    assert code == 2
    assert output.startswith(f"{foreign}: {says}")
    assert list(tmp_path.iterdir()) == [foreign]
