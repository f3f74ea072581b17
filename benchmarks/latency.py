"""Latency of compiled libraries beside ONNX Runtime, in float32 and in int8: batch 1, same process, taking turns.

    python benchmarks/latency.py [--runs 300] [--networks resnet20 resnet56] [--files FOLDER]

Networks have random weights (seed 0) and BatchNorm statistics of random images: latency does not depend on them. int8:
ours by `quantization`, and for ONNX Runtime its own static quantization of the same network, activations
unsigned and signed, weights per channel: the faster of the two and of our file counts. Both on one thread and on two,
as many at a time; before the turns of two threads those of others have gone to sleep. Prints a Markdown table.
`--files`: where ONNX files are kept between runs: to quantize takes longer than to compile.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from onnx_runtime import statically_quantized
from pocketpipe.budget import Budget
from pocketpipe.compression.blocks import BlocksStep
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.delivery.loader import load_library
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.exporting.executing import run_onnx, session
from pocketpipe.exporting.onnx import INPUT_NAME, export_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.lowering import lower
from pocketpipe.network import NETWORKS
from pocketpipe.pipelines.evaluate.latency import medians, medians_of_threads
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import Preprocessing, Split, Task, TaskChoice

IMAGE = (3, 32, 32)

FILES = ("float.onnx", "integers.onnx", "unsigned.onnx", "signed.onnx")
"""Ours in float32 and int8; ONNX Runtime's own int8."""


@dataclass(frozen=True)
class Subject:
    """A network of the zoo, and what is taken out of it."""

    network: str
    shape: tuple[int, ...] = IMAGE
    slim: float = 1.0
    """Times fewer MACs by thinner layers."""
    multiple: int = 1
    """Of which channel counts are, where they are thinner."""
    blocks: float = 1.0
    """Times fewer MACs by fewer blocks."""

    def __str__(self) -> str:
        thinner = f", {self.slim}x slim" + (f", multiples of {self.multiple}" if self.multiple > 1 else "")
        return self.network + (thinner if self.slim > 1 else "") + (f", {self.blocks}x by blocks" * (self.blocks > 1))


SUBJECTS = [
    Subject("resnet8", (1, 8, 8)),
    Subject("resnet8", (1, 8, 8), slim=2.5),
    Subject("gru", (8, 8)),
    Subject("resnet8_mlperf_tiny"),
    Subject("resnet20"),
    Subject("resnet20", slim=2.0),
    Subject("resnet56"),
    Subject("resnet56", slim=2.5),
    Subject("resnet56", slim=2.5, multiple=8),
    Subject("resnet56", blocks=2.5),
    Subject("mobilenet_v2"),
    Subject("resnet18", (3, 64, 64)),
]


def main() -> None:
    """Print one row a network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--networks", nargs="*")
    parser.add_argument("--files", type=Path)
    asked = parser.parse_args()
    print(
        "| network, 1 / 2 threads | input | MACs | fp32 ms | ONNX Runtime fp32 | ratio | int8 ms | ONNX Runtime int8 "
        "| ratio | int8 over ONNX Runtime fp32 | compile s, fp32 / int8 |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for subject in SUBJECTS:
        if not asked.networks or subject.network in asked.networks:
            with tempfile.TemporaryDirectory() as scratch:
                folder = (asked.files or Path(scratch)) / str(subject).replace(", ", "_").replace(" ", "_")
                if not folder.exists():
                    write_files(subject, folder)
                print(row(subject, folder, asked.runs), flush=True)


def built(subject: Subject) -> tuple[torch.nn.Module, bytes, bytes]:
    """(the network, its file in float32, its file in int8)."""
    torch.manual_seed(0)
    task, data = noise(subject.shape)
    network = settled(NETWORKS.resolve(subject.network)(subject.shape, 10), data)
    network = reduced(network, subject, task, data)
    quantized, _ = CompressionPlan((QuantizationStep(),)).carry_out(network, task, data)
    float_file, integer_file = (export_onnx(each.eval(), subject.shape) for each in (network, quantized))
    return network, float_file, integer_file


def write_files(subject: Subject, folder: Path) -> None:
    """Build, quantize and export one network into a new folder."""
    network, float_file, integer_file = built(subject)
    data = noise(subject.shape)[1]
    with tempfile.TemporaryDirectory() as scratch:
        quantized = statically_quantized(float_file, data.inputs[:32], Path(scratch))
        unsigned, signed = (file for _, file in quantized)
    folder.mkdir(parents=True)
    for name, file in zip(FILES, (float_file, integer_file, unsigned, signed), strict=True):
        (folder / name).write_bytes(file)
    (folder / "macs").write_text(str(profile_of(network, subject.shape).cost().macs))


def row(subject: Subject, files_folder: Path, runs: int) -> str:
    """Compile and time one network."""
    task, data = noise(subject.shape)
    files = [(files_folder / name).read_bytes() for name in FILES]
    float_file, integer_file = files[:2]
    macs = int((files_folder / "macs").read_text())
    example = data.inputs[:1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        seconds = [
            compiled(file, folder / f"{name}{threads}", task, threads)
            for threads in (2, 1) for name, file in (("f", float_file), ("i", integer_file))
        ]  # fmt: skip
        for threads in (1, 2):
            check(folder, threads, float_file, integer_file, example)
        found = [milliseconds(files, folder, example, threads, runs) for threads in (1, 2)]
    ours_float, ours_int8, their_float, their_int8 = zip(*found, strict=True)
    cells = (
        str(subject), "x".join(map(str, subject.shape)), f"{macs / 1e6:.2f} M",
        both(ours_float), both(their_float), both(ratios(ours_float, their_float), 2),
        both(ours_int8), both(their_int8), both(ratios(ours_int8, their_int8), 2),
        both(ratios(ours_int8, their_float), 2), both(seconds[2:], 1),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def both(values: Sequence[float], digits: int = 3) -> str:
    """A cell."""
    return " / ".join(f"{value:.{digits}f}" for value in values)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """On one thread and on two."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def runtimes(files: Sequence[bytes], example: np.ndarray, threads: int) -> list[Any]:
    """Calls of ONNX Runtime."""
    return [partial(session(file, threads=threads).run, None, {INPUT_NAME: example}) for file in files]


def milliseconds(files: Sequence[bytes], folder: Path, example: np.ndarray, threads: int, runs: int) -> list[float]:
    """Medians, taking turns: our float32, our int8, ONNX Runtime's float32 and the fastest of its int8."""
    ours: list[Any] = [partial(load_library(folder / f"{name}{threads}").run_prepared, example) for name in ("f", "i")]
    turns = medians if threads == 1 else medians_of_threads
    ours_float, ours_int8, their_float, *their_int8 = turns([*ours, *runtimes(files, example, threads)], runs)
    return [1000 * seconds for seconds in (ours_float, ours_int8, their_float, min(their_int8))]


def noise(shape: tuple[int, ...]) -> tuple[Task, Split]:
    """A task of this input shape, and random images."""
    task = TaskChoice(name="digits").build(Path("data"))
    task.input_shape, task.preprocessing = shape, Preprocessing()
    images = np.random.default_rng(0).normal(size=(128, *shape)).astype(np.float32)
    return task, Split("noise", images, np.zeros(128, np.int64))


def settled(network: torch.nn.Module, data: Split) -> torch.nn.Module:
    """The network with BatchNorm statistics of the data: with fresh ones, numbers grow or vanish with depth."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.from_numpy(data.inputs))
    return network.eval()


def reduced(network: torch.nn.Module, subject: Subject, task: Task, data: Split) -> torch.nn.Module:
    """Every group thinned to the same share, or blocks taken out, on the budget."""
    profile = profile_of(network, subject.shape)
    if subject.slim > 1:
        limits = Budget(speedup=subject.slim).limits(profile.cost())
        halves = {group.name: max(1, group.channels // 2) for group in profile.slimmable}
        step: Step = ChannelsStep(widths=halves, multiple=subject.multiple).project(profile, limits)
    elif subject.blocks > 1:
        step = BlocksStep(criterion="random").project(profile, Budget(speedup=subject.blocks).limits(profile.cost()))
    else:
        return network
    return CompressionPlan((step,)).carry_out(network, task, data)[0].eval()


def compiled(onnx: bytes, folder: Path, task: Task, threads: int) -> float:
    """Seconds that it took."""
    started = perf_counter()
    TARGETS.resolve("x86_64").compile(onnx, described(task, threads), folder)
    return perf_counter() - started


def described(task: Task, threads: int) -> DeliveryMetadata:
    """Of a delivery for this machine."""
    return DeliveryMetadata(
        task="benchmark", network="network", target="x86_64", input_shape=task.input_shape,
        preprocessing=Preprocessing(), labels=task.labels, threads=threads,
    )  # fmt: skip


def check(folder: Path, threads: int, float_file: bytes, integer_file: bytes, example: np.ndarray) -> None:
    """What is timed must be right: float near ONNX Runtime, integers equal to the reference."""
    expected = run_onnx(float_file, example)
    found = load_library(folder / f"f{threads}")(example)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max(), np.abs(found - expected).max()
    graph = lower(integer_file)
    integers = graph.real(reference.run(graph, graph.quantized(example)))
    assert np.array_equal(load_library(folder / f"i{threads}")(example), integers)


if __name__ == "__main__":
    main()
