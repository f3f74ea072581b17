"""Small QDQ files made by hand, and by ONNX Runtime's own quantizer; and what ONNX Runtime makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

OPSET = 18


class File:
    """Collects nodes and initializers; every activation is put on a grid of its own."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.count = 0

    def constant(self, values: np.ndarray) -> str:
        self.count += 1
        self.initializers.append(numpy_helper.from_array(np.asarray(values), f"c{self.count}"))
        return f"c{self.count}"

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        self.count += 1
        self.nodes.append(helper.make_node(operator, list(inputs), [f"v{self.count}"], f"n{self.count}", **attributes))
        return f"v{self.count}"

    def on_grid(self, value: str, scale: float, zero_point: int = 0, dtype: type = np.int8) -> str:
        grid = (self.constant(np.float32(scale)), self.constant(np.array(zero_point, dtype)))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", value, *grid), *grid)

    def weight(self, integers: np.ndarray, scales: np.ndarray, axis: int = 0) -> str:
        stored = self.constant(integers.astype(np.int8))
        zeros = self.constant(np.zeros(scales.shape, np.int8))
        return self.node("DequantizeLinear", stored, self.constant(scales.astype(np.float32)), zeros, axis=axis)

    def bytes(self, output: str) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *self.shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        data: bytes = onnx.shape_inference.infer_shapes(model).SerializeToString()
        return data


def as_written(onnx_file: bytes, inputs: np.ndarray) -> np.ndarray:
    """Outputs (N, ...) of ONNX Runtime with nothing fused: every Quantize and Dequantize is carried out in float."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": inputs[i : i + 1]})[0] for i in range(len(inputs))])


def statically_quantized(onnx_file: bytes, inputs: np.ndarray, folder: Path, **options: Any) -> bytes:
    """The file as ONNX Runtime's static quantization makes it: QDQ, int8, per channel."""
    before, after = folder / "float.onnx", folder / "qdq.onnx"
    before.write_bytes(onnx_file)
    settings = {
        "quant_format": QuantFormat.QDQ,
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        **options,
    }
    quantize_static(str(before), str(after), _Reader(inputs), **settings)
    return after.read_bytes()


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: np.ndarray) -> None:
        self.remaining = iter([{"input": inputs[i : i + 1]} for i in range(len(inputs))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.remaining, None)
