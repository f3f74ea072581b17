"""Eight bits without training, from float to the delivered integers: accuracy of each form on the same test images.

    POCKETPIPE_DATA=... python benchmarks/integers.py [--network resnet20] [--examples 10000]

CIFAR-10 with given weights (`pretrained/<network>-cifar10.safetensors`). Ranges come from the first 512 training
images; nothing is chosen on test. The library is x86_64's; its speed is measured beside ONNX Runtime on the same file.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from pocketpipe import machine
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.exporting.onnx import export_onnx, run_onnx
from pocketpipe.exporting.packing import pack
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.pipelines.evaluate.latency import beside_onnx_runtime
from pocketpipe.plan import CompressionPlan
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import TaskChoice
from pocketpipe.training.inference import predict


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--examples", type=int, default=10_000)
    asked = parser.parse_args()
    task = TaskChoice(name="cifar10").build(machine.data_root())
    splits, test = task.load(seed=0, holdout=None)
    inputs, targets = test.inputs[: asked.examples], test.targets[: asked.examples]
    weights = read_weights(machine.data_root() / "pretrained" / f"{asked.network}-cifar10.safetensors")
    teacher = replace(StoredNetwork(asked.network), state=weights).build(task)

    started = perf_counter()
    network, _ = CompressionPlan((QuantizationStep(),)).carry_out(teacher, task, splits.train)
    calibrated = perf_counter() - started
    dense, onnx = export_onnx(teacher, task.input_shape), export_onnx(network.eval(), task.input_shape)
    with tempfile.TemporaryDirectory() as scratch:
        target, folder = TARGETS.resolve("x86_64"), Path(scratch) / "x86_64"
        metadata = DeliveryMetadata(
            task="cifar10", network=asked.network, target="x86_64", input_shape=task.input_shape,
            input_dtype="uint8", preprocessing=task.preprocessing, labels=task.labels,
        )  # fmt: skip
        target.compile(onnx, metadata, folder)
        outputs = {
            "float, PyTorch": predict(teacher, task, inputs),
            "8 bits, simulated in PyTorch": predict(network, task, inputs),
            "8 bits, QDQ file in ONNX Runtime": run_onnx(onnx, task.preprocessing(inputs)),
            "8 bits, delivered integers (x86_64)": target.run(folder, inputs),
        }
        milliseconds, ratio = beside_onnx_runtime(folder, onnx, inputs[:1], task, runs=100)
    print(f"{asked.network}, {len(inputs):,} CIFAR-10 test images; calibration {calibrated:.1f} s")
    print(f"file: {len(dense):,} -> {len(onnx):,} bytes ({len(dense) / len(onnx):.2f}x), packed {len(pack(onnx)):,}")
    print(f"library: {milliseconds:.2f} ms an image, {ratio:.2f}x ONNX Runtime's time on the same file")
    print("| form | accuracy | same class as the simulation |\n|---|---|---|")
    reference = outputs["8 bits, simulated in PyTorch"]
    for name, found in outputs.items():
        same = float(np.mean(found.argmax(1) == reference.argmax(1)))
        print(f"| {name} | {100 * task.metric(found, targets):.2f} % | {100 * same:.2f} % |")


if __name__ == "__main__":
    main()
