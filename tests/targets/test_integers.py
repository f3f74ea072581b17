"""Quantized files on the processors: the delivered libraries give the reference's integers, to the last one."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from integer.qdq import File
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.model import cpu_flags
from pocketpipe.errors import Mistakes, NotMeasured, UserError
from pocketpipe.integer import lowering, reference
from pocketpipe.integer.fixed_point import Requantization
from pocketpipe.integer.graph import IntegerGraph, IntegerTensor, SumPool
from pocketpipe.integer.proof import prove
from pocketpipe.targets.aarch64 import AArch64
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.lowering.cpu import Cpu
from pocketpipe.targets.lowering.integers.program import compile_integers
from pocketpipe.targets.x86_64 import LEVELS, host_level
from targets import digits
from targets.conftest import Delivered

emulated = pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="needs QEMU")


def expected(stored: np.ndarray) -> np.ndarray:
    graph = digits.graph()
    return graph.real(reference.run(graph, graph.quantized(digits.TASK.preprocessing(stored))))


@pytest.mark.parametrize(
    "name",
    ["x86_64", pytest.param("aarch64", marks=emulated), pytest.param("aarch64-cortex-a76", marks=emulated)],
)
def test_a_quantized_network_is_compiled_to_the_references_integers(name: str, delivered: Delivered) -> None:
    stored, golden = digits.data()[1].inputs[:200], digits.golden_examples()
    folder = delivered(name, digits.quantized_file())
    assert np.array_equal(TARGETS.resolve(name).run(folder, stored), expected(stored))
    assert (folder / "golden" / "inputs.bin").read_bytes() == golden.tobytes()
    assert (folder / "golden" / "outputs.bin").read_bytes() == expected(golden).tobytes()
    needed = DeliveryMetadata.read(folder).cpu_flags
    expected_flags = {"aarch64": ("asimd",), "aarch64-cortex-a76": ("asimd", "asimddp")}
    assert needed == (host_level(cpu_flags()).flags if name == "x86_64" else expected_flags[name])


def test_operators_of_one_name_are_told_apart() -> None:
    """Names in an ONNX file need not be unique."""
    small, half = (Requantization(np.array([2**30], np.int32), np.array([n], np.int32), 0, -128, 127) for n in (32, 31))
    pools = (
        SumPool("pool", ("x",), "y", (2, 2), (2, 2), (0, 0, 0, 0), 0, small),
        SumPool("pool", ("y",), "z", (2, 2), (1, 1), (0, 0, 0, 0), 0, half),
    )
    shapes = {"x": (4, 4, 8), "y": (2, 2, 8), "z": (1, 1, 8)}
    graph = IntegerGraph({name: IntegerTensor(shape, 1.0, 0) for name, shape in shapes.items()}, pools, "x", "z")
    inputs = np.random.default_rng(0).integers(-128, 128, (5, 4, 4, 8)).astype(np.int8)
    assert np.array_equal(TARGETS.resolve("x86_64").run_integers(graph, inputs), reference.run(graph, inputs))


def _of_one_head(*, query: bool) -> IntegerGraph:
    """Queries times keys, where all heads have the keys, or the queries, of the first."""
    file = File((3, 4, 5))
    x = file.on_grid("input", 0.05, 3)
    first = file.node("Slice", x, *(file.constant(np.array([bound])) for bound in (0, 1, 1)))
    queries, keys = (first, x) if query else (x, first)
    product = file.node("MatMul", queries, file.node("Transpose", keys, perm=[0, 1, 3, 2]))
    return lowering.lower(file.bytes(file.on_grid(product, 0.1)))


@pytest.mark.parametrize("name", ["x86_64", "fpga"])
def test_all_heads_may_share_their_keys(name: str) -> None:
    graph = _of_one_head(query=False)
    inputs = np.random.default_rng(0).integers(-128, 128, (5, 3, 4, 5)).astype(np.int8)
    assert np.array_equal(TARGETS.resolve(name).run_integers(graph, inputs), reference.run(graph, inputs))


def _repeated_over_four_axes() -> IntegerGraph:
    file = File((2, 3, 2, 2))
    x = file.on_grid("input", 0.05)
    part = file.node("Slice", x, *(file.constant(np.array([bound])) for bound in (0, 1, 1)))
    return lowering.lower(file.bytes(file.on_grid(file.node("Mul", x, part), 0.1)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: _of_one_head(query=True), r"operator 'n\d+' \(MatMul\): its inputs have different batches"),
        (_repeated_over_four_axes, r"operator 'n\d+' \(Multiply\): 4 axes besides the batch; the C kernels know 3"),
    ],
)
def test_what_plain_c_does_not_take_is_refused_before_any_work(make: Callable[[], IntegerGraph], reason: str) -> None:
    graph = make()
    with pytest.raises(UserError, match=reason):
        TARGETS.resolve("x86_64").run_integers(graph, np.zeros((1, *graph.tensors[graph.input].shape), np.int8))
    for name in ("x86_64", "aarch64"):
        with pytest.raises(UserError, match=reason):
            TARGETS.resolve(name).check_integers(graph)


def test_moves_and_sums_over_four_axes_are_not_refused() -> None:
    """C99 takes those of boxes whose axes come down to three; ours take all."""
    file = File((2, 3, 2, 2))
    x = file.on_grid("input", 0.05)
    both = file.on_grid(file.node("Concat", x, file.on_grid(file.node("Neg", x), 0.05), axis=2), 0.05)
    cut = file.node("Slice", both, *(file.constant(np.array([bound])) for bound in (1, 5, 2)))
    padded = file.node("Pad", cut, file.constant(np.array([0, 0, 1, 0, 0, 0, 1, 0, 0, 0])))
    total = file.node("Add", padded, file.on_grid(file.node("Sigmoid", padded), 0.004, -128))
    graph = lowering.lower(file.bytes(file.on_grid(total, 0.06)))
    inputs = np.random.default_rng(0).integers(-128, 128, (5, 2, 3, 2, 2)).astype(np.int8)
    for target in map(TARGETS.resolve, ("x86_64", "fpga")):
        target.check_integers(graph)
        assert np.array_equal(target.run_integers(graph, inputs), reference.run(graph, inputs))


def test_c99_refuses_boxes_that_keep_four_axes() -> None:
    file = File((4, 3, 4, 4))
    bounds = (file.constant(np.array(values)) for values in ([0] * 4, [4, 3, 4, 4], [1, 2, 3, 4], [2] * 4))
    graph = lowering.lower(file.bytes(file.node("Slice", file.on_grid("input", 0.05), *bounds)))
    with pytest.raises(UserError, match=r"operator 'n\d+' \(Slice\): 4 axes besides the batch"):
        TARGETS.resolve("fpga").check_integers(graph)
    inputs = np.random.default_rng(0).integers(-128, 128, (5, 4, 3, 4, 4)).astype(np.int8)
    assert np.array_equal(TARGETS.resolve("x86_64").run_integers(graph, inputs), reference.run(graph, inputs))


@pytest.mark.parametrize("name", ["aarch64", "x86_64-v3"])
def test_sums_are_proven_as_the_processor_takes_them(name: str) -> None:
    """No offset is added to what `smlal` reads; with the 128 that x86 adds this one would leave 32 bits."""
    file = File((100_000,))
    weight = file.weight(np.full((100_000, 1), 127), np.array(1e-5), axis=1)
    graph = lowering.lower(file.bytes(file.on_grid(file.node("MatMul", file.on_grid("input", 0.05), weight), 0.1)))
    with pytest.raises(Mistakes, match="the accumulator has 32"):
        prove(graph)
    inputs = np.random.default_rng(0).integers(-128, 128, (2, 100_000)).astype(np.int8)
    inputs[0] = 127
    try:
        found = TARGETS.resolve(name).run_integers(graph, inputs)
    except NotMeasured as reason:
        pytest.skip(str(reason))
    assert np.array_equal(found, reference.run(graph, inputs))


def test_numbers_that_are_prepared_outside_enter_as_well(tmp_path: Path) -> None:
    stored = digits.data()[1].inputs[:50].astype(np.float32)
    metadata = digits.metadata("x86_64").model_copy(update={"input_dtype": "float32"})
    target = TARGETS.resolve("x86_64")
    target.compile(digits.quantized_file(), metadata, tmp_path / "out")
    assert np.array_equal(target.run(tmp_path / "out", stored), expected(stored))


PROGRAM = """
#include <stdio.h>
#include "pocketpipe_model.h"

static unsigned char arena[POCKETPIPE_ARENA_BYTES] __attribute__((aligned(64)));

int main(void) {
    unsigned char image[POCKETPIPE_INPUT_COUNT];
    float output[POCKETPIPE_OUTPUT_COUNT];
    while (fread(image, 1, sizeof image, stdin) == sizeof image) {
        pocketpipe_run_bytes_in(arena, image, output);
        fwrite(output, 1, sizeof output, stdout);
    }
    return 0;
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize("onnx", [digits.quantized_file, digits.float_file])
def test_the_static_library_and_one_header_are_all_that_a_program_in_c_needs(
    onnx: Callable[[], bytes], delivered: Delivered, tmp_path: Path
) -> None:
    stored, folder = digits.data()[1].inputs[:50], delivered("x86_64", onnx())
    (tmp_path / "program.c").write_text(PROGRAM)
    command = ["cc", "-Wall", "-Werror", f"-I{folder}", "program.c", str(folder / "libmodel.a"), "-o", "program"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "program"], input=stored.tobytes(), capture_output=True, check=True)
    outputs = np.frombuffer(done.stdout, np.float32).reshape(50, 10)
    assert np.array_equal(outputs, TARGETS.resolve("x86_64").run(folder, stored))


@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("cc")), reason="needs CMake and a C compiler")
@pytest.mark.parametrize("numbers", ["integers", "float"])
def test_golden_vectors_are_held_by_whoever_builds_the_folder(
    numbers: str, delivered: Delivered, tmp_path: Path
) -> None:
    onnx = digits.quantized_file() if numbers == "integers" else digits.float_file()
    shutil.copytree(delivered("x86_64", onnx), tmp_path / "out")
    for command in (["cmake", "-S", "out", "-B", "build"], ["cmake", "--build", "build"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    def tested() -> int:
        """The golden vectors are read where they lie."""
        return subprocess.run(["ctest"], cwd=tmp_path / "build", check=False, capture_output=True).returncode

    assert tested() == 0
    golden, inputs = (tmp_path / "out" / "golden" / name for name in ("outputs.bin", "inputs.bin"))
    right = golden.read_bytes()
    for wrong in (right[:-1] + b"\x7f", right[:-4], right[:-4] + np.float32("nan").tobytes()):
        golden.write_bytes(wrong)
        assert tested() != 0
    golden.write_bytes(right)
    inputs.write_bytes(b"")
    assert tested() != 0


FLOAT_ARITHMETIC = {
    "x86_64": re.compile(r"^\tv?(add|sub|mul|div|fn?m(add|sub)\d+|cvt\w+)[ps][sd]\b", re.MULTILINE),
    "aarch64": re.compile(r"^\t(fn?(add|sub|mul|div|mla|mls|madd|msub)|[su]cvtf|fcvt\w*)\b", re.MULTILINE),
}


@pytest.mark.parametrize(
    ("cpu", "instruction"),
    [
        (LEVELS["v4-vnni"].cpu(), "vpdpbusd"),
        (LEVELS["v3"].cpu(), "vpmaddwd"),
        (AArch64("cortex-a76").cpu(), "sdot"),
        (AArch64("cortex-a53").cpu(), "smlal2"),
    ],
    ids=["v4-vnni", "v3", "cortex-a76", "cortex-a53"],
)
def test_kernels_are_made_of_the_processors_own_dot_products_and_of_no_floats(
    cpu: Cpu, instruction: str, tmp_path: Path
) -> None:
    compile_integers(digits.graph(), cpu, tmp_path / "kernels.s")
    text = (tmp_path / "kernels.s").read_text()
    assert f"\t{instruction}\t" in text
    machine = cpu.triple.partition("-")[0]
    assert not FLOAT_ARITHMETIC[machine].search(text)


OBJDUMP = {"x86_64": "objdump", "aarch64": "aarch64-linux-gnu-objdump"}
TO_REAL = 3
"""Instructions that make a real number of an integer: to double, times the scale, to float."""


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_a_delivered_library_has_floats_at_its_two_ends_alone(name: str, delivered: Delivered) -> None:
    if shutil.which(OBJDUMP[name]) is None:
        pytest.skip(f"needs {OBJDUMP[name]}")
    archive = delivered(name, digits.quantized_file()) / "libmodel.a"
    command = [OBJDUMP[name], "-d", "--no-show-raw-insn", str(archive)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    floats = Counter[str]()
    for function, body in re.findall(r"^[0-9a-f]+ <(.+)>:\n((?:.+\n)*)", listing, re.MULTILINE):
        floats[function] += len(FLOAT_ARITHMETIC[name].findall(re.sub(r"(?m)^[^\t]*", "", body)))
    ends = {"pocketpipe_run", "pocketpipe_run_in", "run_integers"}
    assert {function for function, count in floats.items() if count} <= ends
    assert 0 < floats["run_integers"] <= TO_REAL * len(digits.metadata(name).labels)


def test_an_archive_is_listed_among_what_was_delivered(delivered: Delivered) -> None:
    assert "libmodel.a" in DeliveryMetadata.read(delivered("x86_64", digits.quantized_file())).hashes
