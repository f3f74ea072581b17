"""Seconds and memory that a compilation takes, in a process of its own: ResNet-50 on 224x224 unless told otherwise.

    python benchmarks/compiling.py [--network resnet50] [--side 224] [--targets x86_64 aarch64] [--kept FOLDER]

Random weights (seed 0), quantized on four random images: neither time nor memory depends on them. The network is made
once and kept in FOLDER, if named. Memory is the compiling process's peak and that of the largest C compiler that it
started, added: what both can take at the same time. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from latency import noise, settled
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.network import NETWORKS
from pocketpipe.plan import CompressionPlan
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import Preprocessing

IMAGES = 4
CLASSES = 1000
NUMBERS = ("float32", "int8")
GIGABYTE = 2**20
"""In the kilobytes of `ru_maxrss`."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--targets", nargs="*", default=["x86_64"])
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--compile", nargs=2, metavar=("ONNX", "TARGET"), help="one compilation, in this process")
    asked = parser.parse_args()
    if asked.compile:
        file, target = asked.compile
        print(json.dumps(compiled(Path(file), target, (3, asked.side, asked.side))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        files = made(asked.network, asked.side, asked.kept or Path(scratch))
        print("| network | numbers | target | seconds | processor seconds | memory GB | library MB | arena MB |")
        print("|---|---|---|---:|---:|---:|---:|---:|")
        for numbers, file in zip(NUMBERS, files, strict=True):
            for target in asked.targets:
                command = [sys.executable, __file__, "--side", str(asked.side), "--compile", str(file), target]
                found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                print(
                    f"| {asked.network}, {asked.side}x{asked.side} | {numbers} | {target} | {found['seconds']:.1f} "
                    f"| {found['processor']:.1f} | {found['memory']:.2f} | {found['library'] / 1e6:.1f} "
                    f"| {found['arena'] / 1e6:.1f} |",
                    flush=True,
                )


def made(name: str, side: int, folder: Path) -> list[Path]:
    """The ONNX files, float32 and int8."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{side}.{numbers}.onnx" for numbers in NUMBERS]
    if not all(file.exists() for file in files):
        torch.manual_seed(0)
        shape = (3, side, side)
        task, data = noise(shape)
        few = replace(data, inputs=data.inputs[:IMAGES], targets=data.targets[:IMAGES])
        network = settled(NETWORKS.resolve(name)(shape, CLASSES), few)
        quantized, _ = CompressionPlan((QuantizationStep(),)).carry_out(network, task, few)
        for file, each in zip(files, (network, quantized), strict=True):
            file.write_bytes(export_onnx(each.eval(), shape))
    return files


def compiled(onnx: Path, target: str, shape: tuple[int, ...]) -> dict[str, float]:
    """Compile, and what it took: seconds, processor seconds, gigabytes; bytes of the library and of its memory."""
    metadata = DeliveryMetadata(
        task="benchmark", network="network", target=target, input_shape=shape, preprocessing=Preprocessing(),
        labels=("a",),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "delivery"
        started = perf_counter()
        TARGETS.resolve(target).compile(onnx.read_bytes(), metadata, folder, np.zeros((1, *shape), np.float32))
        seconds = perf_counter() - started
        footprint = DeliveryMetadata.read(folder).footprint
        assert footprint is not None
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return {
            "seconds": seconds,
            "processor": sum(each.ru_utime + each.ru_stime for each in used),
            "memory": sum(each.ru_maxrss for each in used) / GIGABYTE,
            "library": footprint.library,
            "arena": footprint.arena,
        }


if __name__ == "__main__":
    main()
