"""A delivery with measured schedules: never slower than the one by rule, for both are timed and the faster is taken."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from pocketpipe.delivery.loader import Delivered, load_library
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.integer.lowering import is_quantized, lower
from pocketpipe.storage import appearing_whole
from pocketpipe.targets.lowering.cpu import Cpu
from pocketpipe.targets.lowering.fusing import nests
from pocketpipe.targets.lowering.integers.program import shapes
from pocketpipe.targets.lowering.reading import read_onnx
from pocketpipe.targets.settings import TuneSettings
from pocketpipe.targets.toolchain import Toolchain
from pocketpipe.targets.tuning.choosing import clearly_faster
from pocketpipe.targets.tuning.records import Records
from pocketpipe.targets.tuning.tuner import Tuner, host_processor
from pocketpipe.targets.tuning.workloads import FloatWorkload, IntegerWorkload, Workload

ROUNDS = 41
ROUND_SECONDS = 2e-3
MARGIN, WINS = 0.01, 2 / 3
"""Of the network as a whole (`choosing.clearly_faster`): each kernel has won by more already."""

Compile = Callable[[bytes | IntegerGraph, Path, Mapping[Any, Any]], None]
"""Writes the delivery folder of a network with schedules that were chosen."""


def deliver(
    onnx: bytes,
    folder: Path,
    cpu: Cpu,
    toolchain: Toolchain,
    threads: int,
    settings: TuneSettings,
    records: Path,
    compile_: Compile,
) -> dict[str, float]:
    """Tune the kernels of a network, then write the faster of two deliveries; figures of what was done."""  # fmt: skip
    started = perf_counter()
    network = lower(onnx) if is_quantized(onnx) else onnx
    tuner = Tuner(settings, Records(records), toolchain, f"{_this_processor()}, {cpu}", threads)
    chosen = tuner.choose(workloads(network, cpu))
    figures = {"candidates": float(tuner.measured), "reused": float(tuner.reused), "tuned_kernels": float(len(chosen))}
    with tempfile.TemporaryDirectory(prefix="pocketpipe-") as scratch:
        by_rule, tuned = Path(scratch) / "rule", Path(scratch) / "tuned"
        compile_(network, by_rule, {})
        taken = by_rule
        if chosen:
            compile_(network, tuned, {workload.shape: schedule for workload, schedule in chosen.items()})
            rule, measured = _seconds(load_library(by_rule), load_library(tuned))
            figures["tuned_ratio"] = median(b / a for a, b in zip(rule, measured, strict=True))
            if clearly_faster(rule, measured, margin=MARGIN, wins=WINS):
                taken = tuned
        figures["tuned_taken"] = float(taken is tuned)
        with appearing_whole(folder) as delivery:
            shutil.copytree(taken, delivery, dirs_exist_ok=True)
    return figures | {"tuning_seconds": perf_counter() - started}


def workloads(network: bytes | IntegerGraph, cpu: Cpu) -> Counter[Workload]:
    """The kernels of a network that have schedules, and how often each is called."""
    if isinstance(network, IntegerGraph):
        return Counter({IntegerWorkload(shape, cpu): count for shape, count in shapes(network).items()})
    return Counter({FloatWorkload(nest, cpu): count for nest, count in nests(read_onnx(network)).items()})


def _seconds(*libraries: Delivered) -> list[list[float]]:
    """Of one example, of each library in each round, taking turns."""
    example = np.random.default_rng(0).normal(size=(1, *libraries[0].metadata.input_shape)).astype(np.float32)
    found: list[list[float]] = [[] for _ in libraries]
    calls = max(1, int(ROUND_SECONDS / max(_timed(libraries[0], example, 10), 1e-7)))
    for _ in range(ROUNDS):
        for library, seconds in zip(libraries, found, strict=True):
            seconds.append(_timed(library, example, calls))
    return found


def _timed(library: Delivered, example: np.ndarray, calls: int) -> float:
    library.run_prepared(example)
    started = perf_counter()
    for _ in range(calls):
        library.run_prepared(example)
    return (perf_counter() - started) / calls


def _this_processor() -> str:
    file = Path("/proc/cpuinfo")
    return host_processor(iter(file.read_text().splitlines())) if file.is_file() else "unknown"
