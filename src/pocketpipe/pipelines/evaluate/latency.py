"""Latency of a delivered library beside ONNX Runtime: same process, one thread each, taking turns."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from pocketpipe.delivery.loader import load_library
from pocketpipe.exporting.onnx import INPUT_NAME, session
from pocketpipe.task import Task

WARM_UP = 20


def beside_onnx_runtime(folder: Path, onnx: bytes, example: np.ndarray, task: Task, runs: int) -> tuple[float, float]:
    """(median milliseconds of the library, that over ONNX Runtime's median), batch 1, both on prepared input."""
    delivered = load_library(folder)
    prepared = task.preprocessing(example)
    runtime = session(onnx, threads=1)
    library, reference = medians(
        (lambda: delivered.run_prepared(prepared), lambda: runtime.run(None, {INPUT_NAME: prepared})), runs
    )
    return library * 1000, library / reference


def medians(contenders: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """Median seconds of each, over `runs` calls after a warm-up, the contenders taking turns."""
    seconds: list[list[float]] = [[] for _ in contenders]
    for turn in range(WARM_UP + runs):
        for contender, times in zip(contenders, seconds, strict=True):
            started = perf_counter()
            contender()
            if turn >= WARM_UP:
                times.append(perf_counter() - started)
    return [median(times) for times in seconds]
