"""Measured schedules beside those by rule: what tuning finds, how long it takes, and what a second run costs.

    python benchmarks/tuning.py [--network resnet20] [--trials 24] [--minutes 5]

The network has random weights (seed 0), in float32 and in int8. Each is tuned into an empty folder of records, then
once more with the records of the first time; the ratio is the whole network's time, tuned over by rule, in 41
interleaved rounds. Prints a Markdown table.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from latency import SUBJECTS, Subject, described, noise, settled
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.network import NETWORKS
from pocketpipe.plan import CompressionPlan
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.settings import TuneSettings
from pocketpipe.task import Task


def main() -> None:
    """Print a row for each kind of numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=5.0)
    asked = parser.parse_args()
    subject = next(each for each in SUBJECTS if each.network == asked.network)
    task, files = files_of(subject)
    print("| network | numbers | candidates | seconds | kernels tuned | whole network | taken | second run |")
    print("|---|---|---:|---:|---:|---:|---|---|")
    for numbers, onnx in files.items():
        print(row(f"{subject} | {numbers}", onnx, task, TuneSettings(trials=asked.trials, minutes=asked.minutes)))


def files_of(subject: Subject) -> tuple[Task, dict[str, bytes]]:
    """The task, and the network in float32 and in int8."""
    torch.manual_seed(0)
    task, data = noise(subject.shape)
    network = settled(NETWORKS.resolve(subject.network)(subject.shape, 10), data)
    quantized, _ = CompressionPlan((QuantizationStep(),)).carry_out(network, task, data)
    return task, {
        "float32": export_onnx(network.eval(), subject.shape),
        "int8": export_onnx(quantized.eval(), subject.shape),
    }


def row(name: str, onnx: bytes, task: Task, settings: TuneSettings) -> str:
    """Tune twice with the same records."""
    with tempfile.TemporaryDirectory() as scratch:
        first, second = (
            TARGETS.resolve("x86_64").compile_tuned(
                onnx, described(task, threads=1), Path(scratch) / "out", settings, Path(scratch) / "records"
            )
            for _ in range(2)
        )
    taken = "tuned" if first["tuned_taken"] else "by rule"
    ratio = f"{first['tuned_ratio']:.3f}" if "tuned_ratio" in first else "-"
    again = f"{second['candidates']:.0f} candidates, {second['tuning_seconds']:.0f} s"
    return (
        f"| {name} | {first['candidates']:.0f} | {first['tuning_seconds']:.0f} | {first['tuned_kernels']:.0f} "
        f"| {ratio} | {taken} | {again} |"
    )


if __name__ == "__main__":
    main()
