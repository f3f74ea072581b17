"""Latency of compiled libraries beside ONNX Runtime: batch 1, one thread, same process, taking turns.

    python benchmarks/latency.py [--runs 300]

Networks have random weights (seed 0): latency does not depend on them. "slim" keeps 40 % of the MACs, which leaves
channel counts that are no multiple of a vector. Prints a Markdown table.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from pocketpipe.budget import Budget
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.exporting.onnx import export_onnx, run_onnx
from pocketpipe.network import NETWORKS
from pocketpipe.pipelines.evaluate.latency import beside_onnx_runtime
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import Preprocessing, Split, Task, TaskChoice

SUBJECTS = [
    ("resnet8", (1, 8, 8), None),
    ("resnet8", (1, 8, 8), 2.5),
    ("gru", (8, 8), None),
    ("gru", (8, 8), 2.5),
    ("lenet", (1, 8, 8), None),
    ("resnet20", (3, 32, 32), None),
    ("resnet20", (3, 32, 32), 2.0),
    ("resnet56", (3, 32, 32), None),
    ("resnet56", (3, 32, 32), 2.5),
    ("resnet8_mlperf_tiny", (3, 32, 32), None),
    ("mobilenet_v2", (3, 32, 32), None),
    ("resnet18", (3, 64, 64), None),
]


def main() -> None:
    """Print one row a network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    runs = parser.parse_args().runs
    print("| network | input | MACs | library ms | ONNX Runtime ms | ratio | largest difference | compile s |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name, shape, speedup in SUBJECTS:
        print(row(name, shape, speedup, runs), flush=True)


def row(name: str, shape: tuple[int, ...], speedup: float | None, runs: int) -> str:
    """Build, export, compile and time one network."""
    torch.manual_seed(0)
    digits = TaskChoice(name="digits").build(Path("data"))
    digits.input_shape, digits.preprocessing = shape, Preprocessing()
    network = NETWORKS.resolve(name)(shape, 10).eval()
    if speedup is not None:
        network = thinned(network, digits, speedup)
    onnx = export_onnx(network, shape)
    macs = profile_of(network, shape).cost().macs
    metadata = DeliveryMetadata(
        task="benchmark", network=name, target="x86_64", input_shape=shape, preprocessing=Preprocessing(),
        labels=digits.labels,
    )  # fmt: skip
    example = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        started = perf_counter()
        target, folder = TARGETS.resolve("x86_64"), Path(scratch) / "x86_64"
        target.compile(onnx, metadata, folder)
        seconds = perf_counter() - started
        difference = np.abs(target.run(folder, example) - run_onnx(onnx, example)).max()
        milliseconds, ratio = beside_onnx_runtime(folder, onnx, example, digits, runs)
    label = name if speedup is None else f"{name}, {speedup}x slim"
    times = f"{milliseconds:.3f} | {milliseconds / ratio:.3f} | {ratio:.2f}"
    size = f"{'x'.join(map(str, shape))} | {macs / 1e6:.2f} M"
    return f"| {label} | {size} | {times} | {difference:.1e} | {seconds:.1f} |"


def thinned(network: torch.nn.Module, task: Task, speedup: float) -> torch.nn.Module:
    """The network with the same share of channels left everywhere, on the budget."""
    profile = profile_of(network, task.input_shape)
    limits = Budget(speedup=speedup).limits(profile.cost())
    halves = ChannelsStep(widths={group.name: max(1, group.channels // 2) for group in profile.slimmable})
    nothing = Split("none", np.zeros((0, *task.input_shape), np.float32), np.zeros(0, np.int64))
    return halves.project(profile, limits).pin(network, task, nothing).apply(network, task).eval()


if __name__ == "__main__":
    main()
