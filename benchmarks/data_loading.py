"""Share of a training epoch that reading and augmenting data takes: CIFAR-10's shape, ResNet-20, batch 128.

    python benchmarks/data_loading.py [--steps 30]

Images are random (seed 0), augmentation is CIFAR-10's own (pad 4, crop, flip). Prints a Markdown table.
"""

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from pocketpipe.network import NETWORKS
from pocketpipe.task import Split, TaskChoice
from pocketpipe.training.batches import Batches, Shard


def main() -> None:
    """Time batches alone, then batches with a training step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    task = TaskChoice(name="cifar10").build(Path("data"))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (128 * (steps + 5), 3, 32, 32), np.uint8)
    split = Split("random images", images, generator.integers(0, 10, len(images)))
    batches = Batches(task, split, 128, 0, Shard(), torch.device("cpu"))
    network = NETWORKS.resolve("resnet20")(task.input_shape, 10).train()
    torch.nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    print("| precision | data ms a step | whole step ms | share |\n|---|---:|---:|---:|")
    for precision, autocast in (("fp32", False), ("bf16", True)):
        loading, whole = 0.0, 0.0
        stream = batches.cut(0)
        for step in range(steps):
            started = perf_counter()
            inputs, targets, _ = next(stream)
            loaded = perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = task.loss(network(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step >= 5:
                loading += loaded - started
                whole += perf_counter() - started
        counted = steps - 5
        print(f"| {precision} | {loading / counted * 1e3:.2f} | {whole / counted * 1e3:.1f} | {loading / whole:.1%} |")


if __name__ == "__main__":
    main()
