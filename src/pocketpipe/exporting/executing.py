"""ONNX files in ONNX Runtime, the reference that everything delivered is compared with."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pocketpipe.delivery.model import cpu_flags

DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni"})
"""What /proc/cpuinfo shows of an x86 CPU that adds products of bytes in 32 bits."""


def session(onnx: bytes, threads: int = 1, *, as_written: bool = False) -> Any:
    """An `onnxruntime.InferenceSession` on CPU: `session(onnx).run(None, {"input": example})[0]`, example (1, ...).

    `as_written`: what is quantized is computed as the file says, in float, and not by integer kernels.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def _saturates() -> bool:
    return platform.machine() in ("x86_64", "AMD64") and not DOT_PRODUCTS & cpu_flags()


def run_onnx(onnx: bytes, prepared_inputs: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Outputs (N, ...) of the file for network inputs (N, ...), one example at a time, `threads` of them at once.

    The file's batch is 1: examples, not operators, are spread over threads, so that what is measured is
    the delivered file itself. `threads` defaults to all CPUs. On x86 without VNNI integers are not left to ONNX
    Runtime's kernels: they add products in 16 bits there, which saturate (`vpmaddubsw`), and are no reference.
    """
    if not len(prepared_inputs):
        raise ValueError("run_onnx needs at least one example")
    threads = min(threads or os.cpu_count() or 1, len(prepared_inputs))
    runner = session(onnx, as_written=_saturates())
    name = runner.get_inputs()[0].name

    def run_slice(examples: np.ndarray) -> np.ndarray:
        return np.concatenate([runner.run(None, {name: examples[i : i + 1]})[0] for i in range(len(examples))])

    slices = np.array_split(np.ascontiguousarray(prepared_inputs, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(run_slice, slices)))
