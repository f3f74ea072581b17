"""Fewer bits, fewer weights, shared weights: accuracy and whole files of one network, before and after training.

    POCKETPIPE_DATA=... python benchmarks/fewer_bytes.py [--network resnet20] [--rows "W4 A4" ...] [--workspace FOLDER]

CIFAR-10; the weights are `pretrained/<network>.safetensors` (ours are in `benchmarks/weights/`: trained on 45,000
images, so that val is unseen). Every row's recipe is fixed here, the last epoch counts, seed 0: nothing is chosen.
Val is the 5,000 images of seed 0; test is opened once for each row, at its end. `file` is the ONNX file, `packed` what
travels (`pocketpipe pack`). Beside them ONNX Runtime's own static quantization of the dense file (per channel, 512
training images). `--workspace` keeps all trainings, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnx_runtime import statically_quantized
from pocketpipe import machine
from pocketpipe.compression.codebook import CodebookStep
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.exporting.executing import run_onnx
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.exporting.packing import pack
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.task import Split, Task, TaskChoice
from pocketpipe.training.fit import fit
from pocketpipe.training.inference import metric_of
from pocketpipe.training.recipe import Recipe, TrainerSettings


@dataclass(frozen=True)
class Row:
    """One step, and how long it is trained after."""

    step: Step
    epochs: int = 0
    learning_rate: float = 0.01
    further: tuple[str, ...] = ()
    """Networks that teach beside the one as it was, with the weights of their name."""


ROWS = {
    "W8 A8": Row(QuantizationStep()),
    "W4 A8": Row(QuantizationStep(weight_bits=4), epochs=2),
    "W4 A8, AdaRound": Row(QuantizationStep(weight_bits=4, rounding="adaround"), epochs=2),
    "W4 A4": Row(QuantizationStep(weight_bits=4, activation_bits=4), epochs=4),
    "W4 A4, AdaRound": Row(QuantizationStep(weight_bits=4, activation_bits=4, rounding="adaround"), epochs=4),
    "W2 A2": Row(QuantizationStep(weight_bits=2, activation_bits=2, rounding="nearest"), epochs=6, learning_rate=0.02),
    "W2 A2, longer": Row(
        QuantizationStep(weight_bits=2, activation_bits=2), epochs=24, learning_rate=0.04, further=("resnet56",)
    ),
    "codebook, 4 bits": Row(CodebookStep(bits=4), epochs=2),
    "codebook, 4 bits, nearest values": Row(CodebookStep(bits=4, assignment="nearest"), epochs=2),
    "90 % sparse": Row(SparsityStep(density=0.1, protocol="lamp", schedule="gradual"), epochs=6, learning_rate=0.05),
    "90 % sparse, longer": Row(
        SparsityStep(density=0.1, protocol="lamp", schedule="gradual"),
        epochs=24,
        learning_rate=0.1,
        further=("resnet56",),
    ),
    "50 % sparse": Row(SparsityStep(density=0.5, protocol="lamp", schedule="gradual"), epochs=2, learning_rate=0.05),
    "75 % sparse": Row(SparsityStep(density=0.25, protocol="lamp", schedule="gradual"), epochs=3, learning_rate=0.05),
    "95 % sparse": Row(SparsityStep(density=0.05, protocol="lamp", schedule="gradual"), epochs=6, learning_rate=0.05),
}
"""By GPTQ, where nothing else is said. Activations of 4 and 2 bits are what layers read; sums, the input and the
outputs have 8, as have both ends."""


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--workspace", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(asked.network, asked.workspace or Path(scratch))
        bench.dense()
        bench.onnx_runtime(Path(scratch))
        for name in asked.rows:
            bench.row(name, ROWS[name])


class Bench:
    """The network, its data, and one printed line at a time."""

    def __init__(self, network: str, workspace: Path) -> None:
        self.choice = TaskChoice(name="cifar10")
        self.task: Task = self.choice.build(machine.data_root())
        self.splits, self.test = self.task.load(seed=0, holdout=None)
        state = read_weights(machine.data_root() / "pretrained" / f"{network}.safetensors")
        self.teacher = replace(StoredNetwork(network), state=state)
        self.workspace = workspace
        self.onnx = export_onnx(self.teacher.build(self.task), self.task.input_shape)
        print(f"| {network} | val, untrained | epochs | val | test | file | packed | times smaller |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)

    def dense(self) -> None:
        """The network as it is."""
        network = self.teacher.build(self.task)
        val, test = (metric_of(network, self.task, split) for split in (self.splits.val, self.test))
        self.tell("float", val, 0, val, test, self.onnx)

    def onnx_runtime(self, folder: Path) -> None:
        """ONNX Runtime's static quantization, its own defaults, with unsigned and with signed activations."""
        images = self.task.preprocessing(self.splits.train.inputs[:512])
        for kind, file in statically_quantized(self.onnx, images, folder):
            val, test = (self.metric_in_onnx_runtime(file, split) for split in (self.splits.val, self.test))
            self.tell(f"ONNX Runtime's static quantization, {kind} activations", val, 0, val, test, file)

    def row(self, name: str, row: Row) -> None:
        """Carry the step out, train, measure."""
        plan = CompressionPlan((row.step,))
        network, plan = plan.carry_out(self.teacher.build(self.task), self.task, self.splits.train)
        before = metric_of(network.eval(), self.task, self.splits.val)
        if row.epochs:
            start = replace(self.teacher, plan=plan).with_weights(network)
            fitted = fit(
                start, self.choice, machine.data_root(), self.splits, recipe(row), TrainerSettings(), seed=0,
                workspace=self.workspace / name.replace(" ", "-"), teacher=self.teacher, title=name,
            )  # fmt: skip
            network = fitted.network.build(self.task).eval()
        val, test = (metric_of(network, self.task, split) for split in (self.splits.val, self.test))
        self.tell(name, before, row.epochs, val, test, export_onnx(network, self.task.input_shape))

    def tell(self, name: str, before: float, epochs: int, val: float, test: float, file: bytes) -> None:
        """Print a line. Times smaller: the dense ONNX file over the packed one."""
        packed = len(pack(file))
        figures = [f"{100 * before:.2f} %", str(epochs or "-"), f"{100 * val:.2f} %", f"{100 * test:.2f} %"]
        sizes = [f"{len(file):,}", f"{packed:,}", f"{len(self.onnx) / packed:.1f} ({len(self.onnx) / len(file):.1f})"]
        print(f"| {name} | " + " | ".join(figures + sizes) + " |", flush=True)

    def metric_in_onnx_runtime(self, file: bytes, split: Split) -> float:
        """Of an ONNX file."""
        batches = [run_onnx(file, self.task.preprocessing(part)) for part in np.array_split(split.inputs, 10)]
        return self.task.metric(np.concatenate(batches), split.targets)


def recipe(row: Row) -> Recipe:
    """Distilled from the network as it was, and those beside it."""
    teachers = [{"name": name, "weights": f"pretrained/{name}.safetensors"} for name in row.further]
    distillation: dict[str, Any] = {"weight": 0.9, "temperature": 4.0, "cached_views": 4, "teachers": teachers}
    return Recipe.model_validate({
        "epochs": row.epochs, "batch_size": 128, "learning_rate": row.learning_rate, "schedule": "cosine",
        "warmup_epochs": 0.5, "weight_decay": 1e-4, "distillation": distillation,
    })  # fmt: skip


if __name__ == "__main__":
    main()
