"""ONNX Runtime's own static quantization, as benchmarks hold it against ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from pocketpipe.exporting.onnx import INPUT_NAME


class Images(CalibrationDataReader):  # type: ignore[misc]  # the engine is untyped
    """Prepared inputs (N, ...), one at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self.left = [{INPUT_NAME: image[None]} for image in images]

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next, or None at the end."""
        return self.left.pop() if self.left else None


def statically_quantized(onnx: bytes, images: np.ndarray, folder: Path) -> Iterator[tuple[str, bytes]]:
    """(kind of activations, QDQ file): unsigned, then signed; weights per channel. `folder` takes files in between."""
    (folder / "float.onnx").write_bytes(onnx)
    for name, kind in (("unsigned", QuantType.QUInt8), ("signed", QuantType.QInt8)):
        quantize_static(
            folder / "float.onnx", folder / "int8.onnx", Images(images), quant_format=QuantFormat.QDQ,
            per_channel=True, activation_type=kind, weight_type=QuantType.QInt8,
        )  # fmt: skip
        yield name, (folder / "int8.onnx").read_bytes()
