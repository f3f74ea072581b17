"""MLPerf Tiny's image classification on a bare Cortex-M: accuracy of the delivered integers, flash and RAM.

    POCKETPIPE_DATA=... kedro run --pipeline compress --env mlperf_tiny
    POCKETPIPE_DATA=... python benchmarks/mlperf_tiny.py --student <output>/finetune/student/latest/network

Two rows of ours, from the same teacher: eight bits without compression, and what the recipe made. Accuracy is that of
the x86_64 library's integers on all 10,000 test images; the board's integers are compared with them on `--emulated`
images. Flash and RAM are the sections of the image for the board. The other rows are as their authors publish them.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from integers import calibrated, deliver
from pocketpipe import machine
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer.lowering import lower
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.storage import load_network
from pocketpipe.task import Split, Task, TaskChoice
from pocketpipe.training.inference import metric_of, predict

NETWORK = "resnet8_mlperf_tiny"
PUBLISHED = (
    "| MLPerf Tiny's reference, int8 file | 86.5 % on the device | 98,496 | |",
    "| ST, int8 | 85.59 % | 78,746 (76.9 KiB) | |",
    "| ST, mixed with 1 bit | 84.85 % | 67,891 (66.3 KiB) | |",
)


@dataclass(frozen=True)
class Row:
    """What a network becomes on the board."""

    val: float
    accuracy: float
    simulated: float
    agreement: float
    differing: int
    flash: int
    ram: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path(f"pretrained/{NETWORK}.safetensors"))
    parser.add_argument("--emulated", type=int, default=200)
    asked = parser.parse_args()
    task = TaskChoice(name="cifar10").build(machine.data_root())
    splits, test = task.load(seed=0, holdout=None)
    dense = replace(StoredNetwork(NETWORK), state=read_weights(machine.data_root() / asked.weights))
    rows = {
        "ours, 8 bits, no training": calibrated(dense, task, splits),
        "ours, `conf/mlperf_tiny`": load_network(asked.student),
    }
    lines = []
    for name, stored in rows.items():
        row = measured(stored, task, splits.val, test, asked.emulated)
        print(
            f"{name}: val {row.val:.4f}; test: integers {row.accuracy:.4f}, simulation {row.simulated:.4f}, same class "
            f"{row.agreement:.4f}; {row.differing} integers differ on the board on {asked.emulated} images"
        )
        lines.append(f"| {name} | {100 * row.accuracy:.2f} % | {row.flash:,} | {row.ram:,} |")
    print("| | accuracy on 10,000 | flash, bytes | RAM, bytes |\n|---|---:|---:|---:|")
    print("\n".join((*lines, *PUBLISHED)))


def measured(stored: StoredNetwork, task: Task, val: Split, test: Split, emulated: int) -> Row:
    """All figures of one network."""
    network = stored.build(task)
    onnx = export_onnx(network, task.input_shape)
    graph = lower(onnx)
    with tempfile.TemporaryDirectory() as scratch:
        here, board = (deliver(target, onnx, NETWORK, task, Path(scratch)) for target in ("x86_64", "cortex_m"))
        outputs = here(test.inputs)
        on_board = board(test.inputs[:emulated])
        footprint = DeliveryMetadata.read(Path(scratch) / "cortex_m").footprint
    assert footprint is not None
    assert footprint.flash is not None
    assert footprint.ram is not None
    simulated = predict(network, task, test.inputs)
    return Row(
        val=metric_of(network, task, val),
        accuracy=task.metric(outputs, test.targets),
        simulated=task.metric(simulated, test.targets),
        agreement=float(np.mean(outputs.argmax(1) == simulated.argmax(1))),
        differing=int(np.sum(graph.integers(on_board) != graph.integers(outputs[:emulated]))),
        flash=footprint.flash,
        ram=footprint.ram,
    )


if __name__ == "__main__":
    main()
