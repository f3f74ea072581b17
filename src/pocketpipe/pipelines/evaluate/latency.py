"""Latency of a delivered library beside ONNX Runtime: same process, as many threads each, taking turns."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import numpy as np

from pocketpipe.delivery.loader import load_library
from pocketpipe.exporting.executing import session
from pocketpipe.exporting.onnx import INPUT_NAME
from pocketpipe.task import Task

WARM_UP = 20
ROUNDS = 10
REST_SECONDS = 0.02
"""After which threads that wait for work are asleep."""


def beside_onnx_runtime(folder: Path, onnx: bytes, example: np.ndarray, task: Task, runs: int) -> tuple[float, float]:
    """(median milliseconds of the library, that over ONNX Runtime's median), batch 1, both on prepared input."""
    delivered = load_library(folder)
    prepared = task.preprocessing(example)
    threads = delivered.metadata.threads
    runtime = session(onnx, threads=threads)
    contenders = (lambda: delivered.run_prepared(prepared), lambda: runtime.run(None, {INPUT_NAME: prepared}))
    library, reference = medians(contenders, runs) if threads == 1 else medians_of_threads(contenders, runs)
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


def medians_of_threads(contenders: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """The same for contenders with threads, which look for work a while after each call and take time from who runs
    meanwhile: the turns are several calls long, and each begins when the threads of the turn before are asleep.
    """
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(ROUNDS):
        for contender, times in zip(contenders, seconds, strict=True):
            sleep(REST_SECONDS)
            times += _timed(contender, WARM_UP, -(-runs // ROUNDS))
    return [median(times) for times in seconds]


def _timed(contender: Callable[[], object], warm_up: int, runs: int) -> list[float]:
    for _ in range(warm_up):
        contender()
    moments = [perf_counter()]
    for _ in range(runs):
        contender()
        moments.append(perf_counter())
    return [after - before for before, after in pairwise(moments)]
