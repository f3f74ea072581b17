"""Weights of the given ResNet-20 at few bits, without training: which option is worth what. Activations stay in float.

    POCKETPIPE_DATA=FOLDER python benchmarks/ptq.py [--test 1000] [--bits 8 4 3 2] [--activations 8 6 4]

FOLDER holds CIFAR-10 and pretrained/resnet20-cifar10.safetensors. Scales by mse; the first and the last layer have 8
bits; calibration on the first 512 training images (seed 0), accuracy on the first test images. Prints a Markdown table;
with `--activations` another one: weights of 8 bits and activations of those, by each way to find their ranges.
"""

import argparse
import copy
import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import get_args

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.compression.quantization.adaround import WeightGrid, round_network
from pocketpipe.compression.quantization.bias_correction import correct_bias
from pocketpipe.compression.quantization.clipping import Ranges
from pocketpipe.compression.quantization.equalization import equalize
from pocketpipe.compression.quantization.folding import fold_batchnorm
from pocketpipe.compression.quantization.quantizers import WeightQuantizer
from pocketpipe.compression.quantization.ranges import weight_scales
from pocketpipe.compression.weights import lay_on, weight_of
from pocketpipe.network import NETWORKS, load_weights
from pocketpipe.networks.weights import read_weights
from pocketpipe.plan import CompressionPlan
from pocketpipe.samples import prepared_batches
from pocketpipe.task import TaskChoice

Accuracy = Callable[[nn.Module], float]
RANGES: tuple[Ranges, ...] = get_args(Ranges)


def main() -> None:
    """One row for each number of bits, per channel and per tensor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--bits", type=int, nargs="*", default=[8, 4, 3, 2])
    parser.add_argument("--activations", type=int, nargs="*", default=[])
    given = parser.parse_args()
    root = Path(os.environ["POCKETPIPE_DATA"])
    task = TaskChoice(name="cifar10").build(root)
    splits, test = task.load(seed=0, holdout=None)
    network = NETWORKS.resolve("resnet20")(task.input_shape, 10)
    load_weights(network, read_weights(root / "pretrained/resnet20-cifar10.safetensors"), of="resnet20")
    reference = fold_batchnorm(network.eval(), task.input_shape)
    equal = copy.deepcopy(reference)
    equalize(equal, task.input_shape)
    calibration = list(prepared_batches(task, splits.train, 64, limit=512))
    images = list(prepared_batches(task, test, 250, limit=given.test))

    def accuracy(of: nn.Module) -> float:
        with torch.no_grad():
            outputs = torch.cat([of(batch) for batch in images])
        return 100 * task.metric(outputs.numpy(), test.targets[: given.test])

    print(f"float: {accuracy(network):.1f} %; {given.test} test images\n")
    print("| bits | scales | nearest | equalized | bias corrected | AdaRound | AdaRound, bias corrected |")
    print("|---|---|---|---|---|---|---|")
    start = perf_counter()
    for bits in given.bits:
        for axis, scales in ((0, "per channel"), (None, "per tensor")):
            figures = [accuracy(rounded(reference, bits, axis)[0]), accuracy(rounded(equal, bits, axis)[0])]
            corrected, _ = rounded(reference, bits, axis)
            correct_bias(corrected, reference, calibration)
            learned, grids = rounded(reference, bits, axis)
            round_network(learned, reference, calibration, grids)
            figures += [accuracy(corrected), accuracy(learned)]
            correct_bias(learned, reference, calibration)
            figures.append(accuracy(learned))
            print(f"| {bits} | {scales} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |", flush=True)
    if given.activations:
        print("\n| bits of activations | " + " | ".join(RANGES) + " |\n|---|" + "---|" * len(RANGES))
    for bits in given.activations:
        found = []
        for ranges in RANGES:
            step = QuantizationStep(activation_bits=bits, ranges=ranges)
            quantized, _ = CompressionPlan((step,)).carry_out(network, task, splits.train)
            found.append(accuracy(quantized.eval()))
        print(f"| {bits} | " + " | ".join(f"{figure:.1f}" for figure in found) + " |", flush=True)
    print(f"\n{perf_counter() - start:.0f} s")


def rounded(network: nn.Module, bits: int, axis: int | None) -> tuple[nn.Module, dict[str, WeightGrid]]:
    """A copy with quantizers on the weights, and their grids."""
    result, grids = copy.deepcopy(network), {}
    layers = [path for path, module in network.named_modules() if isinstance(module, (_ConvNd, nn.Linear))]
    for path in layers:
        own = 8 if path in (layers[0], layers[-1]) else bits
        weight = weight_of(result, path)
        grids[path] = WeightGrid(weight_scales(weight if axis == 0 else weight.flatten()[None], own, "mse"), own)
        quantizer = WeightQuantizer(own, tuple(weight.shape), axis)
        quantizer.set_step(grids[path].scales)
        lay_on(result, path, quantizer)
    return result, grids


if __name__ == "__main__":
    main()
