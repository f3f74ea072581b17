"""How long quantization after training takes: ResNet-20 on the first 512 training images of CIFAR-10.

    POCKETPIPE_DATA=... python benchmarks/calibration.py

Our ResNet-20 (benchmarks/weights/), from the float network to the calibrated one, as a plan carries it out. Prints a
Markdown table.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import perf_counter

from pocketpipe import machine
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.plan import CompressionPlan
from pocketpipe.task import TaskChoice

WEIGHTS = Path(__file__).parent / "weights" / "resnet20.safetensors"
STEPS = {
    "8 bits": QuantizationStep(),
    "8 bits, bias correction": QuantizationStep(bias_correction="empirical"),
    "4 bits": QuantizationStep(weight_bits=4),
    "4 bits, AdaRound": QuantizationStep(weight_bits=4, rounding="adaround"),
}


def main() -> None:
    """A line a step."""
    task = TaskChoice(name="cifar10").build(machine.data_root())
    splits, _ = task.load(seed=0, holdout=None)
    network = replace(StoredNetwork("resnet20"), state=read_weights(WEIGHTS)).build(task)
    print("| step | seconds |\n|---|---:|")
    for name, step in STEPS.items():
        started = perf_counter()
        CompressionPlan((step,)).carry_out(network, task, splits.train)
        print(f"| {name} | {perf_counter() - started:.1f} |", flush=True)


if __name__ == "__main__":
    main()
