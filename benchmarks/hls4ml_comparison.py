"""One small network as C for high-level synthesis: our `fpga` delivery beside hls4ml's C simulation. Prints a table.

    python3.11 -m venv hls && hls/bin/pip install hls4ml==1.3.0 qonnx==1.0.0 onnxoptimizer==0.4.2
    python benchmarks/hls4ml_comparison.py --hls4ml hls/bin/python [--networks lenet]

Digits: trained here on train (seed 0, the weights after the last epoch), measured on test. hls4ml wants NumPy and g++
alone; it is given the float32 ONNX file, and fixed-point numbers of 16 bits (its default) and of 8, the same for all
layers. We take the 8 bits that `quantization` makes without training, ranges from train. "Reference": for us the
integer graph in NumPy, for hls4ml the float network (logits), as it has none of its own. Build: from the ONNX file to C
that runs here; run: all test images, batch 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch.nn import functional

from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.delivery.loader import load
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.lowering import lower
from pocketpipe.network import NETWORKS
from pocketpipe.plan import CompressionPlan
from pocketpipe.samples import prepared, to_tensor
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import TASKS, Split, Task
from pocketpipe.training.inference import predict

EPOCHS, BATCH_SIZE = 60, 64
PRECISIONS = ("ap_fixed<16,6>", "ap_fixed<8,4>")
SIDE = Path(__file__).with_name("hls4ml_side.py")
OWN, LIBRARY = ("model.c", "model.h"), "kernels.h"


@dataclass(frozen=True)
class Row:
    """What one of the two makes of a network."""

    name: str
    outputs: np.ndarray
    reference: np.ndarray
    own: int
    """Lines that are this network's own, without its numbers."""
    library: int
    """Lines of kernels that come with them."""
    build: float
    run: float
    """Seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hls4ml", required=True, help="Python of an environment that has hls4ml")
    parser.add_argument("--networks", nargs="*", default=["lenet"])
    asked = parser.parse_args()
    task = TASKS.resolve("digits")(Path())
    splits, test = task.load(seed=0, holdout=None)
    print(
        "| network | C by | accuracy | same class as float | largest difference from its reference "
        "| lines, and of kernels | build s | run s |\n|---|---|---:|---:|---:|---:|---:|---:|"
    )
    for name in asked.networks:
        network = trained(name, task, splits.train)
        floats = predict(network, task, test.inputs)
        print(f"| {name} | float32, PyTorch | {100 * task.metric(floats, test.targets):.2f} % | | | | | |")
        with tempfile.TemporaryDirectory() as scratch:
            rows = [ours(network, task, splits.train, test, Path(scratch))]
            for number, precision in enumerate(PRECISIONS):
                folder = Path(scratch) / str(number)
                folder.mkdir()
                rows.append(theirs(network, task, test, precision, floats, asked.hls4ml, folder))
        for row in rows:
            same_class = float(np.mean(row.outputs.argmax(1) == floats.argmax(1)))
            difference = float(np.abs(row.outputs - row.reference).max())
            print(
                f"| {name} | {row.name} | {100 * task.metric(row.outputs, test.targets):.2f} % "
                f"| {100 * same_class:.2f} % | {difference:.3g} | {row.own:,} + {row.library:,} | {row.build:.1f} "
                f"| {row.run:.2f} |",
                flush=True,
            )


def trained(name: str, task: Task, data: Split) -> torch.nn.Module:
    """From random weights of seed 0."""
    torch.manual_seed(0)
    network = NETWORKS.resolve(name)(task.input_shape, 10)
    inputs, targets = prepared(task.preprocessing, to_tensor(data.inputs)), torch.as_tensor(data.targets).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(inputs) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs)).split(BATCH_SIZE):
            optimizer.zero_grad()
            functional.cross_entropy(network(inputs[batch]), targets[batch]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def ours(network: torch.nn.Module, task: Task, train: Split, test: Split, scratch: Path) -> Row:
    """Eight bits, the delivered C99 compiled here."""
    quantized, _ = CompressionPlan((QuantizationStep(),)).carry_out(network, task, train)
    onnx = export_onnx(quantized.eval(), task.input_shape)
    metadata = DeliveryMetadata(
        task="digits", network="benchmark", target="fpga", input_shape=task.input_shape,
        input_dtype=str(test.inputs.dtype), preprocessing=task.preprocessing, labels=task.labels,
    )  # fmt: skip
    folder = scratch / "fpga"
    started = perf_counter()
    TARGETS.resolve("fpga").compile(onnx, metadata, folder, train.inputs[:8])
    model = load(folder)
    model(test.inputs[:1])
    built = perf_counter() - started
    started = perf_counter()
    outputs = model(test.inputs)
    ran = perf_counter() - started
    graph = lower(onnx)
    expected = graph.real(reference.run(graph, graph.quantized(task.preprocessing(test.inputs))))
    lines = {name: len((folder / name).read_text().splitlines()) for name in (*OWN, LIBRARY)}
    return Row("pocketpipe, int8", outputs, expected, sum(lines[name] for name in OWN), lines[LIBRARY], built, ran)


def theirs(
    network: torch.nn.Module, task: Task, test: Split, precision: str, floats: np.ndarray, python: str, scratch: Path
) -> Row:
    """hls4ml's, in its own environment."""
    file, inputs = scratch / "network.onnx", scratch / "inputs.npy"
    file.write_bytes(export_onnx(network, task.input_shape))
    np.save(inputs, task.preprocessing(test.inputs))
    command = [python, str(SIDE), str(file), str(inputs), precision, str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"hls4ml ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    outputs = np.load(scratch / "outputs.npy")
    name = f"hls4ml, `{precision}`"
    return Row(name, outputs, floats, said["own"], said["library"], said["build"], said["run"])


if __name__ == "__main__":
    main()
