"""Instructions that 64-bit ARM executes for one image, counted by a plugin of QEMU: a repeatable cost without a board.

    python benchmarks/instructions.py [--networks resnet20 resnet56]

Needs qemu-aarch64. Random weights (seed 0), on which the count does not depend; float32 and int8.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from latency import IMAGE, noise, settled
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.network import NETWORKS
from pocketpipe.plan import CompressionPlan
from pocketpipe.targets.aarch64 import AArch64
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.counting import executed_instructions
from pocketpipe.task import Preprocessing, Task

SHOWN = 6
"""Kinds of instructions in a row."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", nargs="*", default=["resnet20", "resnet56"])
    names = parser.parse_args().networks
    print("| network | numbers | target | instructions | most of them |\n|---|---|---|---:|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            for row in rows(name, Path(scratch)):
                print(row, flush=True)


def rows(name: str, scratch: Path) -> list[str]:
    torch.manual_seed(0)
    task, data = noise(IMAGE)
    network = settled(NETWORKS.resolve(name)(IMAGE, 10), data)
    quantized, _ = CompressionPlan((QuantizationStep(),)).carry_out(network, task, data)
    found = []
    for numbers, subject in (("float32", network), ("int8", quantized)):
        onnx = export_onnx(subject.eval(), IMAGE)
        for target in ("aarch64", "aarch64-cortex-a76"):
            counts = executed(onnx, target, task, scratch / f"{name}.{numbers}.{target}")
            most = ", ".join(f"{kind} {count / 1e6:.2f} M" for kind, count in counts.most_common(SHOWN))
            found.append(f"| {name} | {numbers} | {target} | {sum(counts.values()) / 1e6:.2f} M | {most} |")
    return found


def executed(onnx: bytes, name: str, task: Task, folder: Path) -> Counter[str]:
    """By name, for one image."""
    target = TARGETS.resolve(name)
    assert isinstance(target, AArch64)
    metadata = DeliveryMetadata(
        task="benchmark", network="network", target=target.name, input_shape=IMAGE, preprocessing=Preprocessing(),
        labels=task.labels,
    )  # fmt: skip
    target.compile(onnx, metadata, folder)
    return executed_instructions(target.command(folder), np.zeros((1, *IMAGE), np.float32))


if __name__ == "__main__":
    main()
