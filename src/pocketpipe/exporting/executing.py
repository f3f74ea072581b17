"""ONNX files in ONNX Runtime, the reference that everything delivered is compared with."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np


def session(onnx: bytes, threads: int = 1) -> Any:
    """An `onnxruntime.InferenceSession` on CPU: `session(onnx).run(None, {"input": example})[0]`, example (1, ...)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def run_onnx(onnx: bytes, prepared_inputs: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Outputs (N, ...) of the file for network inputs (N, ...), one example at a time, `threads` of them at once.

    The file's batch is 1: examples, not operators, are spread over threads, so that what is measured is
    the delivered file itself. `threads` defaults to all CPUs.
    """
    if not len(prepared_inputs):
        raise ValueError("run_onnx needs at least one example")
    threads = min(threads or os.cpu_count() or 1, len(prepared_inputs))
    runner = session(onnx)
    name = runner.get_inputs()[0].name

    def run_slice(examples: np.ndarray) -> np.ndarray:
        return np.concatenate([runner.run(None, {name: examples[i : i + 1]})[0] for i in range(len(examples))])

    slices = np.array_split(np.ascontiguousarray(prepared_inputs, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(run_slice, slices)))
