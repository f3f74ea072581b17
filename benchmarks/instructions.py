"""Instructions that 64-bit ARM executes for one image, counted by a plugin of QEMU: a repeatable cost without a board.

    python benchmarks/instructions.py [--networks resnet20 resnet56]

Needs qemu-aarch64 and a C compiler. Random weights (seed 0), on which the count does not depend; float32 and int8. One
image is the difference between a run of three and a run of one, halved: start and files are taken out.
"""

from __future__ import annotations

import argparse
import subprocess
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
from pocketpipe.targets.aarch64 import EMULATOR, RUNNER, AArch64
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import Preprocessing, Task

SHOWN = 6
"""Kinds of instructions in a row."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", nargs="*", default=["resnet20", "resnet56"])
    names = parser.parse_args().networks
    print("| network | numbers | target | instructions | most of them |\n|---|---|---|---:|---|")
    with tempfile.TemporaryDirectory() as scratch:
        plugin = Path(scratch) / "counting.so"
        source = Path(__file__).with_name("counting.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", str(source), "-o", str(plugin)], check=True)
        for name in names:
            for row in rows(name, plugin, Path(scratch)):
                print(row, flush=True)


def rows(name: str, plugin: Path, scratch: Path) -> list[str]:
    torch.manual_seed(0)
    task, data = noise(IMAGE)
    network = settled(NETWORKS.resolve(name)(IMAGE, 10), data)
    quantized, _ = CompressionPlan((QuantizationStep(),)).carry_out(network, task, data)
    found = []
    for numbers, subject in (("float32", network), ("int8", quantized)):
        onnx = export_onnx(subject.eval(), IMAGE)
        for target in ("aarch64", "aarch64-cortex-a76"):
            counts = executed(onnx, TARGETS.resolve(target), task, plugin, scratch / f"{name}.{numbers}.{target}")
            most = ", ".join(f"{kind} {count / 1e6:.2f} M" for kind, count in counts.most_common(SHOWN))
            found.append(f"| {name} | {numbers} | {target} | {sum(counts.values()) / 1e6:.2f} M | {most} |")
    return found


def executed(onnx: bytes, target: AArch64, task: Task, plugin: Path, folder: Path) -> Counter[str]:
    """By name (QEMU's disassembler writes `.byte` for `sdot`), for one image."""
    metadata = DeliveryMetadata(
        task="benchmark", network="network", target=target.name, input_shape=IMAGE, preprocessing=Preprocessing(),
        labels=task.labels,
    )  # fmt: skip
    target.compile(onnx, metadata, folder)
    three, one = (counted(folder / RUNNER, target.model, images, plugin) for images in (3, 1))
    return Counter({name: (three[name] - one[name]) // 2 for name in three})


def counted(runner: Path, model: str, images: int, plugin: Path) -> Counter[str]:
    """Of a whole run on so many images."""
    folder = runner.parent
    np.zeros((images, *IMAGE), np.float32).tofile(folder / "input.bin")
    log = folder / "counts"
    command = [EMULATOR, "-cpu", model, "-plugin", str(plugin), "-d", "plugin", "-D", str(log), str(runner)]
    subprocess.run([*command, "input.bin", "output.bin"], cwd=folder, check=True)
    lines = (line.split() for line in log.read_text().splitlines())
    return Counter({name: int(count) for name, count in lines})


if __name__ == "__main__":
    main()
