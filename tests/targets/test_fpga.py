"""The delivery for synthesis: the reference's integers, a test bench that can fail, sheets that count right."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pocketpipe
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.integer import reference
from pocketpipe.integer.fixed_point import requantization
from pocketpipe.integer.graph import (
    Concatenation,
    Convolution,
    IntegerGraph,
    IntegerTensor,
    Linear,
    MatMul,
    Transpose,
)
from pocketpipe.lineage.verify import verify
from pocketpipe.preflight import checked_config
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.c99.golden import selftest
from pocketpipe.targets.c99.kernels import kernels_for
from pocketpipe.targets.c99.resources import COLUMNS, resources
from pocketpipe.targets.c99.sources import sources
from pocketpipe.targets.fpga import Fpga
from targets import digits
from targets.conftest import Delivered


@pytest.fixture(scope="module")
def folder(delivered: Delivered) -> Path:
    return delivered("fpga", digits.quantized_file())


@pytest.fixture(scope="module")
def by_five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With another factor, and golden examples of its own."""
    folder = tmp_path_factory.mktemp("deliveries") / "fpga"
    Fpga(unroll=5).compile(digits.quantized_file(), digits.metadata("fpga"), folder)
    return folder


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "fpga"))


def build_bench(folder: Path, *options: str) -> None:
    command = (*digits.ZIG, *digits.STRICT, *options, "testbench.c", "model.c", "-o", "testbench")
    subprocess.run(command, cwd=folder, check=True)


def run_bench(folder: Path) -> tuple[int, str]:
    """(exit code, what it said)"""
    done = subprocess.run(["./testbench"], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_all_digits_give_the_integers_of_the_reference(folder: Path) -> None:
    _, test = digits.data()
    outputs = TARGETS.resolve("fpga").run(folder, test.inputs)
    assert len(outputs) == 359
    assert len(np.unique(outputs)) > 50
    assert np.array_equal(outputs, digits.right(test.inputs))


def test_the_test_bench_passes_and_can_fail(copied: Path) -> None:
    build_bench(copied)
    assert run_bench(copied) == (0, "8 examples, 0 of 80 values differ\n")
    golden = bytearray((copied / "golden" / "outputs.bin").read_bytes())
    golden[17] ^= 1
    (copied / "golden" / "outputs.bin").write_bytes(golden)
    assert run_bench(copied) == (1, "8 examples, 1 of 80 values differ\n")
    (copied / "golden" / "outputs.bin").write_bytes(golden[:-1])
    assert run_bench(copied)[0] == 2
    (copied / "golden" / "outputs.bin").write_bytes(golden)
    inputs = (copied / "golden" / "inputs.bin").read_bytes()
    for kept in (len(inputs) - 1, len(inputs) // 8, 0):
        (copied / "golden" / "inputs.bin").write_bytes(inputs[:kept])
        assert run_bench(copied)[0] == 2, f"{kept} of {len(inputs)} bytes"


def test_a_device_without_files_tests_itself(copied: Path) -> None:
    (copied / "main.c").write_text(
        '#include <stdio.h>\n#include "model.h"\nint32_t pocketpipe_selftest(void);\n'
        'int main(void) { return printf("%ld", (long)pocketpipe_selftest()) < 0; }\n'
    )

    def differing() -> str:
        command = (*digits.ZIG, *digits.STRICT, "main.c", "selftest.c", "model.c", "-o", "selftest")
        subprocess.run(command, cwd=copied, check=True)
        return subprocess.run(["./selftest"], cwd=copied, capture_output=True, text=True, check=True).stdout

    assert differing() == "0"
    text = (copied / "selftest.c").read_text()
    start = text.index("golden_outputs[80] = {") + len("golden_outputs[80] = {\n    ")
    first = text[start:].split(",")[0]
    other = str(int(first) - 1 if int(first) > -128 else 0)
    (copied / "selftest.c").write_text(text[:start] + other + text[start + len(first) :])
    assert differing() == "1"


def test_a_large_example_is_tested_alone() -> None:
    inputs, outputs = np.zeros((8, 3, 64, 64), np.uint8), np.zeros((8, 10), np.int8)
    assert "example < 2;" in selftest(inputs, outputs)
    assert "example < 1;" in selftest(np.zeros((8, 3, 224, 224), np.uint8), outputs)


@pytest.mark.parametrize(
    ("tool", "before", "inside"),
    [
        ("VITIS", "", "# *pragma HLS PIPELINE II=1\\s+# *pragma HLS UNROLL factor=8"),
        ("INTEL", "# *pragma unroll 8\\s+# *pragma ii 1", ""),
    ],
)
def test_pragmas_stand_where_the_tools_want_them_and_change_nothing(
    copied: Path, tool: str, before: str, inside: str
) -> None:
    options = (f"-DPOCKETPIPE_{tool}", "-Wno-unknown-pragmas")
    build_bench(copied, *options)
    assert run_bench(copied)[0] == 0
    text = subprocess.run(
        [*digits.ZIG, "-E", "-P", *options, "model.c"], cwd=copied, capture_output=True, text=True, check=True
    ).stdout
    loops = re.findall(before + r"\s+for \(int32_t k = 0; k < read; k\+\+\) \{\s+" + inside, text)
    assert len(loops) == 3  # inside the image and in its padding, and the linear layer
    assert ("ARRAY_PARTITION variable=arena type=cyclic factor=8" in text) == (tool == "VITIS")


def test_nothing_but_integers_is_in_the_sources(folder: Path) -> None:
    text = "\n".join((folder / name).read_text() for name in ("model.h", "model.c", "kernels.h", "weights.h"))
    words = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert not re.search(r"\b(float|double|malloc|free|printf|tvm)\b", words, re.IGNORECASE)
    assert set(re.findall(r"#include <(.*)>", text)) == {"stdint.h"}
    assert "pocketpipe_matmul" not in text  # the network does not call it


def test_same_file_gives_same_bytes_and_the_metadata_know_them_all(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "again"
    TARGETS.resolve("fpga").compile(digits.quantized_file(), digits.metadata("fpga"), again, digits.golden_examples())
    assert digits.files(folder) == digits.files(again)
    assert not [name for name, content in digits.files(again).items() if str(tmp_path).encode() in content]
    findings = {finding.what: finding.status for finding in verify(folder)}
    assert findings.pop("onnx") == "not compared"
    assert findings.pop("README.md") == "no hash", "times may stand in it"
    assert set(findings.values()) == {"unchanged"}
    assert {"golden/inputs.bin", "golden/outputs.bin", "model.c", "resources.md"} <= set(findings)


COUNTED = """
static long counted;
#define POCKETPIPE_BODY counted++;
#include "model.c"

#include <stdio.h>

int main(void) {
    static pocketpipe_input input[POCKETPIPE_INPUTS];
    static int8_t output[POCKETPIPE_OUTPUTS];
    pocketpipe_run(input, output);
    printf("%ld", counted);
    return 0;
}
"""


def test_the_sheet_counts_the_products_that_are_formed(copied: Path) -> None:
    (copied / "counted.c").write_text(COUNTED)
    subprocess.run([*digits.ZIG, *digits.STRICT, "counted.c", "-o", "counted"], cwd=copied, check=True)
    counted = int(subprocess.run(["./counted"], cwd=copied, capture_output=True, check=True).stdout)
    found = DeliveryMetadata.read(copied).resources
    assert found is not None
    assert found.macs == counted == 64 * 9 * 12 + 64 * 9 * 12 * 12 + 16 * 9 * 12 * 20 + 20 * 10
    assert f"| MACs of one example | {counted:,} |" in (copied / "resources.md").read_text()


def test_the_sheet_counts_products_of_two_tensors(tmp_path: Path) -> None:
    """Products, and loops over them, of (2, 5, 7) by (2, 7, 40): 32 columns together, then 8."""
    shapes = {"x": (2, 5, 7), "turned": (2, 7, 5), "wide": (2, 7, 40), "out": (2, 5, 40)}
    factor = requantization(np.array([0.01]), 0, -128, 127)
    operators = (
        Transpose("turned", ("x",), "turned", (0, 1, 3, 2)),
        Concatenation("wide", ("turned",) * 8, "wide", 3),
        MatMul("product", ("x", "wide"), "out", (3, -5), factor),
    )
    graph = IntegerGraph({name: IntegerTensor(s, 1.0, 0) for name, s in shapes.items()}, operators, "x", "out")
    made = sources(graph)
    for name, text in {**made.files, "counted.c": COUNTED}.items():
        (tmp_path / name).write_text(text)
    counted = []
    for macro in ("BODY", "LOOP"):
        (tmp_path / "counted.c").write_text(COUNTED.replace("POCKETPIPE_BODY", f"POCKETPIPE_{macro}"))
        subprocess.run([*digits.ZIG, *digits.STRICT, "counted.c", "-o", "counted"], cwd=tmp_path, check=True)
        counted.append(int(subprocess.run(["./counted"], cwd=tmp_path, capture_output=True, check=True).stdout))
    (layer,) = [each for each in resources(graph, made, unroll=8, clock_mhz=100).layers if each.name == "product"]
    assert [layer.macs, 2 * 5 * 7 * 2] == counted == [2 * 5 * 7 * 40, 140]
    assert layer.cycles == 70 * (4 + 4) + 70 * (1 + 4) + 2 * 2 * 5 * 40
    assert layer.dsp == 8 + 4


def test_a_wider_circuit_takes_fewer_cycles_and_more_multipliers() -> None:
    made = sources(digits.graph())
    narrow, wide = (resources(digits.graph(), made, unroll=n, clock_mhz=200) for n in (1, 12))
    assert (narrow.macs, wide.macs) == (wide.macs, narrow.macs)
    (second,) = [layer for layer in wide.layers if layer.macs == 64 * 9 * 12 * 12]
    assert second.cycles == 64 * 12 * 9 * (1 + 4)
    assert second.dsp == 12 + 4
    assert wide.cycles < narrow.cycles
    assert wide.dsp > narrow.dsp
    assert wide.examples_per_second == pytest.approx(200e6 / wide.cycles)


def test_the_sheet_says_how_many_bits_a_sum_takes(copied: Path) -> None:
    """Against the sums that inputs can reach on the way, the terms of one sign first."""
    found = DeliveryMetadata.read(copied).resources
    assert found is not None
    bits = {layer.name: layer.bits for layer in found.layers}
    graph = digits.graph()
    layers = [each for each in graph.operators if isinstance(each, Convolution | Linear)]
    for layer in layers:
        x, weight = graph.tensors[layer.inputs[0]], layer.weight.astype(int).reshape(len(layer.weight), -1)
        ends = weight * x.low, weight * x.high
        largest = int((np.maximum(*ends).clip(0).sum(1) + layer.bias).max())
        least = int((np.minimum(*ends).clip(None, 0).sum(1) + layer.bias).min())
        reached = max(largest.bit_length(), (-least - 1).bit_length()) + 1
        assert reached <= bits[layer.name] <= reached + 1
        row = rf"^\| {re.escape(layer.name)} \| \w+ .*\| {bits[layer.name]} \|$"
        assert re.search(row, (copied / "resources.md").read_text(), re.MULTILINE)
    assert sum(each is not None for each in bits.values()) >= len(layers)


def test_an_accumulator_that_could_overflow_is_refused(tmp_path: Path) -> None:
    estimate = resources(digits.graph(), sources(digits.graph()), unroll=8, clock_mhz=100)
    widest = max(layer.bits or 0 for layer in estimate.layers)
    enough, one_less = (Fpga(accumulator_bits=bits) for bits in (widest, widest - 1))
    enough.compile(digits.quantized_file(), digits.metadata("fpga"), tmp_path / "enough")
    with pytest.raises(Mistakes, match=rf"a sum can reach .* takes {widest} bits; the accumulator has {widest - 1}"):
        one_less.compile(digits.quantized_file(), digits.metadata("fpga"), tmp_path / "one_less")
    assert not (tmp_path / "one_less").exists()
    assert repr(enough) != repr(one_less)
    with pytest.raises(UserError, match="accumulator_bits=33 2 to 32"):
        Fpga(accumulator_bits=33)


def test_the_tables_by_which_bytes_enter_take_memory() -> None:
    """256 entries of 8 bits a channel; what fits logic takes no block."""
    (enter, *_), (without, *_) = (
        resources(digits.graph(), sources(digits.graph(), each), unroll=8, clock_mhz=100).layers
        for each in (np.zeros((1, 256), np.int8), None)
    )
    assert (enter.bram, without.bram) == (1, 0)


def test_the_script_has_the_clock_of_the_estimate(tmp_path: Path) -> None:
    Fpga(clock_mhz=250).compile(digits.quantized_file(), digits.metadata("fpga"), tmp_path / "out")
    assert "create_clock -period 4\n" in (tmp_path / "out" / "README.md").read_text()


def test_weights_that_share_values_are_counted_as_indices() -> None:
    """The largest layer, 20 x 12 x 3 x 3: 8 banks of 270 bytes, or of 68 bytes with two bits each, which is logic."""
    graph = digits.graph()
    signs = [
        replace(each, weight=np.sign(each.weight)) if isinstance(each, Convolution | Linear) else each
        for each in graph.operators
    ]
    shared = replace(graph, operators=tuple(signs))
    made = [sources(each) for each in (graph, shared)]
    dense, few = (
        resources(each, sheet, unroll=8, clock_mhz=200) for each, sheet in zip((graph, shared), made, strict=True)
    )
    largest = max(dense.layers, key=lambda layer: layer.bram)
    (same,) = [layer for layer in few.layers if layer.name == largest.name]
    assert largest.bram - same.bram == 8
    assert (same.macs, same.cycles, same.dsp) == (largest.macs, largest.cycles, largest.dsp)
    assert "POCKETPIPE_BANKS(indices" in made[1].files["model.c"]


def test_unroll_is_written_into_the_sources(by_five: Path, tmp_path: Path) -> None:
    assert "#define POCKETPIPE_UNROLL 5 " in (by_five / "model.c").read_text()
    copied = Path(shutil.copytree(by_five, tmp_path / "out"))
    build_bench(copied)
    assert run_bench(copied) == (0, "8 examples, 0 of 80 values differ\n")
    with pytest.raises(UserError, match="unroll=0 must be 1 or more"):
        Fpga(unroll=0)


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_cmake_builds_it_and_ctest_passes(copied: Path) -> None:
    for line in ("cmake -B build", "cmake --build build", "ctest --test-dir build"):
        subprocess.run(line.split(), cwd=copied, check=True, capture_output=True)
    subprocess.run(["build/runner", "golden/inputs.bin", "outputs.bin"], cwd=copied, check=True)
    assert (copied / "outputs.bin").read_bytes() == (copied / "golden" / "outputs.bin").read_bytes()


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_a_project_with_a_runner_of_its_own_takes_it_with_cmake(folder: Path, tmp_path: Path) -> None:
    """No program of ours comes with it, which would need files, and names that the project may have."""
    (tmp_path / "CMakeLists.txt").write_text(
        f"""cmake_minimum_required(VERSION 3.10)
project(device C)
add_subdirectory("{folder}" network)
add_executable(runner main.c)
target_link_libraries(runner pocketpipe_model)
"""
    )
    (tmp_path / "main.c").write_text(_PRINTS_THE_GRID)
    for line in ("cmake -B build", "cmake --build build"):
        subprocess.run(line.split(), cwd=tmp_path, check=True, capture_output=True)
    printed = subprocess.run([tmp_path / "build" / "runner"], capture_output=True, text=True, check=True).stdout
    output = digits.graph().tensors[digits.graph().output]
    scale, zero_point = printed.split()
    assert (np.float32(scale), int(zero_point)) == (np.float32(output.scale), output.zero_point)
    assert not list((tmp_path / "build").rglob("testbench*"))


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_a_project_takes_two_networks_with_cmake(folder: Path, by_five: Path, tmp_path: Path) -> None:
    networks = {"wake": folder, "speech": by_five}
    subfolders = "".join(
        f'set(POCKETPIPE_TARGET {name})\nadd_subdirectory("{each}" {name})\n' for name, each in networks.items()
    )
    (tmp_path / "CMakeLists.txt").write_text(
        f"""cmake_minimum_required(VERSION 3.10)
project(device C)
{subfolders}add_executable(both main.c wake.c speech.c)
target_link_libraries(both wake speech)
"""
    )
    for name, each in networks.items():
        (tmp_path / f"{name}.c").write_text(_SUMS.replace("NAME", name).replace("FOLDER", str(each)))
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\nlong wake(void), speech(void);\n"
        'int main(void) { return printf("%ld %ld", wake(), speech()) < 0; }\n'
    )
    for line in ("cmake -B build", "cmake --build build"):
        subprocess.run(line.split(), cwd=tmp_path, check=True, capture_output=True)
    printed = subprocess.run([tmp_path / "build" / "both"], capture_output=True, text=True, check=True).stdout
    sums = []
    for each in networks.values():
        entering = np.zeros((1, *DeliveryMetadata.read(each).input_shape), np.uint8)
        integers = DeliveryMetadata.read(each).integers
        assert integers is not None
        outputs = TARGETS.resolve("fpga").run(each, entering)
        sums.append(round(float((outputs / integers.output.scale + integers.output.zero_point).sum())))
    assert [int(number) for number in printed.split()] == sums


_SUMS = """
#define pocketpipe_run NAME_run
#define pocketpipe_run_in NAME_run_in
#include "FOLDER/model.h"
long NAME(void) {
    static pocketpipe_input input[POCKETPIPE_INPUTS];
    static int8_t output[POCKETPIPE_OUTPUTS];
    long sum = 0;
    pocketpipe_run(input, output);
    for (int i = 0; i < POCKETPIPE_OUTPUTS; i++) sum += output[i];
    return sum;
}
"""

_PRINTS_THE_GRID = """
#include <stdio.h>
#include "model.h"
int main(void) {
    pocketpipe_input input[POCKETPIPE_INPUTS] = {0};
    int8_t output[POCKETPIPE_OUTPUTS];
    pocketpipe_run(input, output);
    return printf("%.9g %d", POCKETPIPE_OUTPUT_SCALE, POCKETPIPE_OUTPUT_ZERO_POINT) < 0;
}
"""


def test_a_file_cannot_take_two_networks_for_one(folder: Path, by_five: Path, tmp_path: Path) -> None:
    for name, second in (("same", folder), ("both", by_five)):
        (tmp_path / f"{name}.c").write_text(f'#include "{folder}/model.h"\n#include "{second}/model.h"\n')
    command = (*digits.ZIG, "-c", "-o", "made.o")
    subprocess.run([*command, "same.c"], cwd=tmp_path, check=True)
    refused = subprocess.run([*command, "both.c"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "one network a file" in refused.stderr


def test_one_line_of_the_readme_builds_the_runner(copied: Path) -> None:
    build, run = (copied / "README.md").read_text().split("```sh\n")[1].splitlines()[:2]
    for line in (build.replace("cc", " ".join(digits.ZIG), 1), run):
        subprocess.run(line, shell=True, cwd=copied, check=True)
    assert (copied / "outputs.bin").read_bytes() == (copied / "golden" / "outputs.bin").read_bytes()


def test_python_loads_it_where_there_is_a_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = digits.golden_examples()
    model = pocketpipe.load(folder)
    assert np.array_equal(model(stored), digits.right(stored))
    with pytest.raises(UserError, match=r"examples have shape \(1, 8, 8\), expected \(N, 1, 8, 8\)"):
        model(stored[0])
    with pytest.raises(UserError, match="examples are float32, expected uint8 as stored"):
        model(stored.astype(np.float32))
    with pytest.raises(UserError, match=r"examples hold 300..300; uint8 is stored: 0..255"):
        model(np.full_like(stored, 300, dtype=np.int64))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs a C compiler to be executed: install gcc, or `pip install ziglang`"):
        pocketpipe.load(folder)


def test_threads_do_not_share_memory(folder: Path) -> None:
    stored = digits.data()[1].inputs
    model = pocketpipe.load(folder)
    with ThreadPoolExecutor(4) as threads:
        outputs = list(threads.map(model, [stored] * 12))
    assert all(np.array_equal(each, digits.right(stored)) for each in outputs)


def test_what_is_stored_in_float_enters_as_int8(tmp_path: Path) -> None:
    metadata = digits.metadata("fpga").model_copy(update={"input_dtype": "float32"})
    stored = digits.golden_examples().astype(np.float32) + np.float32(0.3)
    TARGETS.resolve("fpga").compile(digits.quantized_file(), metadata, tmp_path / "out", stored)
    assert np.array_equal(TARGETS.resolve("fpga").run(tmp_path / "out", stored), digits.right(stored))
    integers = digits.graph().quantized(metadata.preprocessing(stored))
    assert (tmp_path / "out" / "golden" / "inputs.bin").read_bytes() == integers.tobytes()
    assert (tmp_path / "out" / "golden" / "outputs.bin").read_bytes() == reference.run(
        digits.graph(), integers
    ).tobytes()
    entry = digits.graph().tensors[digits.graph().input]
    readme = (tmp_path / "out" / "README.md").read_text()
    assert f"floor(x / {entry.scale!r} + 0.5)" in readme
    assert "int8_t, channels first, prepared and quantized as above" in readme
    assert f"#define POCKETPIPE_INPUT_SCALE {entry.scale!r}f\n" in (tmp_path / "out" / "model.h").read_text()


def test_what_is_no_number_is_the_lowest_integer(tmp_path: Path) -> None:
    metadata = digits.metadata("x86_64").model_copy(update={"input_dtype": "float32"})
    stored = digits.golden_examples().astype(np.float32)
    stored[:, 0, 3, 4] = np.nan
    outputs = []
    for name in ("fpga", "x86_64"):
        TARGETS.resolve(name).compile(digits.quantized_file(), metadata, tmp_path / name, stored)
        outputs.append(TARGETS.resolve(name).run(tmp_path / name, stored))
    assert np.array_equal(*outputs)
    assert np.array_equal(outputs[0], digits.right(np.where(np.isnan(stored), -np.inf, stored)))


def test_a_bare_graph_is_compiled_and_run() -> None:
    integers = np.random.default_rng(0).integers(-128, 128, (5, 1, 8, 8)).astype(np.int8)
    expected = reference.run(digits.graph(), integers)
    assert np.array_equal(TARGETS.resolve("fpga").run_integers(digits.graph(), integers), expected)


def test_a_file_in_float_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^target fpga needs integers: add quantization to methods$"):
        TARGETS.resolve("fpga").compile(digits.float_file(), digits.metadata("fpga"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_methods_without_integers_are_refused_before_any_work() -> None:
    channels = {"name": "channels"}
    asked = {"task": {"name": "digits"}, "targets": ["x86_64", "fpga", "cortex_m"], "methods": [channels]}
    with pytest.raises(Mistakes) as caught:
        checked_config(asked)
    said = [line for line in caught.value.lines if "needs integers" in line]
    assert said == [f"targets: {name} needs integers: add quantization to methods" for name in ("fpga", "cortex_m")]
    asked["methods"] = [channels, {"name": "quantization"}]
    with pytest.raises(Mistakes) as caught:
        checked_config(asked)
    assert not [line for line in caught.value.lines if "needs integers" in line]


def test_the_sheet_counts_as_many_columns_at_once_as_the_kernel_takes() -> None:
    assert f"#define POCKETPIPE_COLUMNS {COLUMNS}\n" in kernels_for(["pocketpipe_matmul("])
