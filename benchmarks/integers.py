"""Eight bits from float to the delivered integers: accuracy of each form on the same test images.

    POCKETPIPE_DATA=... python benchmarks/integers.py --weights pretrained/resnet20.safetensors [--epochs 2]
    POCKETPIPE_DATA=... python benchmarks/integers.py --network resnet8_mlperf_tiny --student FOLDER

CIFAR-10. Ranges come from the first 512 training images; with `--epochs` the network is trained as it rounds (QAT,
taught by itself in float). `--student` takes a network that a recipe has made
(`<output>/finetune/student/latest/network`). Nothing is chosen on test. `--c99 1000` executes the C99 sources, compiled
for this machine, on so many images too.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pocketpipe import machine
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.exporting.executing import run_onnx
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.exporting.packing import pack
from pocketpipe.integer.lowering import lower
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.plan import CompressionPlan
from pocketpipe.storage import load_network
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import Splits, Task, TaskChoice
from pocketpipe.training.distilling import Distillation
from pocketpipe.training.fit import fit
from pocketpipe.training.inference import metric_of, predict
from pocketpipe.training.recipe import Recipe, TrainerSettings

CIFAR = TaskChoice(name="cifar10")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", type=Path, default=Path("pretrained/resnet20-cifar10.safetensors"))
    parser.add_argument("--student", type=Path, default=None)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--c99", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    asked = parser.parse_args()
    task = CIFAR.build(machine.data_root())
    splits, test = task.load(seed=0, holdout=None)
    inputs, targets = test.inputs[: asked.examples], test.targets[: asked.examples]
    dense = replace(StoredNetwork(asked.network), state=read_weights(machine.data_root() / asked.weights))
    quantized = load_network(asked.student) if asked.student is not None else calibrated(dense, task, splits)
    if asked.epochs:
        quantized = trained(quantized, dense, splits, asked.epochs, asked.learning_rate)
    network = quantized.build(task)
    val = metric_of(network, task, splits.val)

    onnx = export_onnx(network, task.input_shape)
    with tempfile.TemporaryDirectory() as scratch:
        run = deliver("x86_64", onnx, asked.network, task, Path(scratch))
        outputs = {
            "float, PyTorch": predict(dense.build(task), task, inputs),
            "8 bits, simulated in PyTorch": predict(network, task, inputs),
            "8 bits, QDQ file in ONNX Runtime": run_onnx(onnx, task.preprocessing(inputs)),
            "8 bits, delivered integers (x86_64)": run(inputs),
        }
        if asked.c99:
            c99 = deliver("fpga", onnx, asked.network, task, Path(scratch))
            graph = lower(onnx)
            same = graph.integers(c99(inputs[: asked.c99])) == graph.integers(
                outputs["8 bits, delivered integers (x86_64)"][: asked.c99]
            )
            print(f"C99 (fpga), {asked.c99:,} images: {np.sum(~same):,} of {same.size:,} integers differ from x86_64's")
    whole = len(export_onnx(dense.build(task), task.input_shape))
    print(f"{asked.network}, {len(inputs):,} CIFAR-10 test images; simulated on val ({len(splits.val):,}): {val:.4f}")
    print(f"file: {whole:,} -> {len(onnx):,} bytes ({whole / len(onnx):.2f}x), packed {len(pack(onnx)):,}")
    print("| form | accuracy | same class as the simulation |\n|---|---|---|")
    reference = outputs["8 bits, simulated in PyTorch"]
    for name, found in outputs.items():
        same_class = float(np.mean(found.argmax(1) == reference.argmax(1)))
        print(f"| {name} | {100 * task.metric(found, targets):.2f} % | {100 * same_class:.2f} % |")


def calibrated(dense: StoredNetwork, task: Task, splits: Splits) -> StoredNetwork:
    """Eight bits, no training."""
    network, plan = CompressionPlan((QuantizationStep(weight_bits=8),)).carry_out(dense.build(task), task, splits.train)
    return replace(dense, plan=plan).with_weights(network)


def trained(
    start: StoredNetwork, teacher: StoredNetwork, splits: Splits, epochs: int, learning_rate: float
) -> StoredNetwork:
    """After QAT, seed 0."""
    recipe = Recipe(
        epochs=epochs, batch_size=128, learning_rate=learning_rate, schedule="cosine", warmup_epochs=0,
        distillation=Distillation(weight=0.9, temperature=4.0),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as workspace:
        return fit(
            start, CIFAR, machine.data_root(), splits, recipe, TrainerSettings(compile="always"),
            seed=0, workspace=Path(workspace), teacher=teacher, title="QAT",
        ).network  # fmt: skip


def deliver(target: str, onnx: bytes, network: str, task: Task, parent: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Compile for `target` into `parent / target`; what runs it on stored inputs."""
    metadata = DeliveryMetadata(
        task=CIFAR.name, network=network, target=target, input_shape=task.input_shape,
        input_dtype="uint8", preprocessing=task.preprocessing, labels=task.labels,
    )  # fmt: skip
    made, folder = TARGETS.resolve(target), parent / target
    made.compile(onnx, metadata, folder)
    return lambda inputs: made.run(folder, inputs)


if __name__ == "__main__":
    main()
