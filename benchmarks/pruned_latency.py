"""How much faster fewer MACs really are: a network's int8 and float32 libraries against those of its pruned selves.

    python benchmarks/pruned_latency.py [--network resnet56] [--speedup 2.5] [--runs 400]

Batch 1, one thread, one process, all taking turns; random weights (seed 0) as in `latency.py`. Prints a Markdown table.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from latency import IMAGE, Subject, built, compiled, noise
from pocketpipe.compression.tracing import profile_of
from pocketpipe.delivery.loader import load_library
from pocketpipe.pipelines.evaluate.latency import medians


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--speedup", type=float, default=2.5)
    parser.add_argument("--runs", type=int, default=400)
    asked = parser.parse_args()
    thinner = [Subject(asked.network, slim=asked.speedup, multiple=multiple) for multiple in (1, 4, 8)]
    subjects = [Subject(asked.network), *thinner, Subject(asked.network, blocks=asked.speedup)]
    example = noise(IMAGE)[1].inputs[:1]
    with tempfile.TemporaryDirectory() as scratch:
        macs = [delivered(subject, Path(scratch)) for subject in subjects]
        milliseconds = [
            [1000 * seconds for seconds in medians(
                [partial(load_library(Path(scratch) / kind / str(subject)).run_prepared, example)
                 for subject in subjects], asked.runs)]
            for kind in ("float", "int8")
        ]  # fmt: skip
    print("| | MACs | fp32 ms | times faster | int8 ms | times faster |\n|---|---:|---:|---:|---:|---:|")
    for subject, count, floats, integers in zip(subjects, macs, *milliseconds, strict=True):
        faster = [dense[0] / own for dense, own in zip(milliseconds, (floats, integers), strict=True)]
        print(
            f"| {subject} | {count / 1e6:.2f} M | {floats:.3f} | {faster[0]:.2f} | {integers:.3f} | {faster[1]:.2f} |"
        )


def delivered(subject: Subject, folder: Path) -> int:
    """Make both libraries of one network; its MACs."""
    network, float_file, integer_file = built(subject)
    task = noise(subject.shape)[0]
    for kind, onnx in (("float", float_file), ("int8", integer_file)):
        compiled(onnx, folder / kind / str(subject), task, threads=1)
    return profile_of(network, subject.shape).cost().macs


if __name__ == "__main__":
    main()
