"""What GPTQ and AdaRound are worth without training: integers of few bits, and codebooks, on CIFAR-10.

    POCKETPIPE_DATA=... python benchmarks/rounding.py

POCKETPIPE_DATA holds cifar-10-batches-py/. Weights are those of benchmarks/weights, which have not seen val (5,000 of
the training images, seed 0); accuracy there, right after calibration. The first table rounds our ResNet-20 to integers
and tells the seconds that 4 bits take; the second gives it, and the four largest layers of MLPerf Tiny's ResNet-8 (on
the int8 grid), codebooks. Two Markdown tables.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from time import perf_counter

from torch import nn

from pocketpipe import machine
from pocketpipe.compression.codebook import CodebookStep
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.task import Splits, Task, TaskChoice
from pocketpipe.training.inference import metric_of

WEIGHTS = Path(__file__).parent / "weights"
ROUNDINGS = ("nearest", "gptq", "adaround")
BITS = ((4, 8), (3, 8), (2, 8), (4, 4))
"""Of weights, of activations."""
SMALL = ("conv", "stacks.0.*", "*.shortcut", "linear")
"""Layers of MLPerf Tiny's ResNet-8 without a codebook: a tenth of its weights."""


def main() -> None:
    """Both tables."""
    task = TaskChoice(name="cifar10").build(machine.data_root())
    splits, _ = task.load(seed=0, holdout=None)
    resnet20, mlperf = network("resnet20", task), network("resnet8_mlperf_tiny", task)
    print("| bits | " + " | ".join(ROUNDINGS) + " |\n|---|---:|---:|---:|")
    for weight_bits, activation_bits in BITS:
        integers = QuantizationStep(weight_bits=weight_bits, activation_bits=activation_bits)
        found = [after(integers.model_copy(update={"rounding": each}), resnet20, task, splits) for each in ROUNDINGS]
        print(f"| W{weight_bits} A{activation_bits} | " + " | ".join(f"{score:.2f}" for score, _ in found) + " |")
        if (weight_bits, activation_bits) == BITS[0]:
            seconds = " | ".join(f"{each:.1f}" for _, each in found)
    print(f"| seconds, W4 A8 | {seconds} |\n")
    print("| network, bits | a layer: nearest | gptq | a channel: nearest | gptq |\n|---|---:|---:|---:|---:|")
    for name, each in (("ResNet-20", resnet20), ("MLPerf Tiny's ResNet-8", mlperf)):
        for bits in (4, 3, 2):
            small = CodebookStep(bits=bits, grid="int8", pinned=SMALL)
            step = small if each is mlperf else CodebookStep(bits=bits)
            ways = product(("per_layer", "per_channel"), ("nearest", "gptq"))
            steps = [step.model_copy(update={"granularity": table, "assignment": choice}) for table, choice in ways]
            figures = " | ".join(f"{after(one, each, task, splits)[0]:.2f}" for one in steps)
            print(f"| {name}, {bits} | {figures} |", flush=True)


def network(name: str, task: Task) -> nn.Module:
    """Ours, in eval mode."""
    return replace(StoredNetwork(name), state=read_weights(WEIGHTS / f"{name}.safetensors")).build(task).eval()


def after(step: Step, whole: nn.Module, task: Task, splits: Splits) -> tuple[float, float]:
    """(% on val, seconds that the step took)."""
    started = perf_counter()
    made, _ = CompressionPlan((step,)).carry_out(whole, task, splits.train)
    seconds = perf_counter() - started
    return 100 * metric_of(made.eval(), task, splits.val), seconds


if __name__ == "__main__":
    main()
