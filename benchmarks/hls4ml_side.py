"""hls4ml's part of `hls4ml_comparison.py`, under the interpreter of its own environment: an ONNX file in, outputs out.

    hls4ml_side.py ONNX INPUTS.npy PRECISION FOLDER

Converts a float32 file (N, channels, height, width) for Vitis with streams, builds its C simulation with g++, runs it
on the inputs, writes `FOLDER/outputs.npy`, and prints seconds and lines as JSON.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

import hls4ml
import numpy as np
import onnx
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
from qonnx.transformation.gemm_to_matmul import GemmToMatMul
from qonnx.util.cleanup import cleanup_model


def main() -> None:
    """Convert, build, run."""
    file, inputs, precision, folder = sys.argv[1], np.load(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    started = perf_counter()
    model = cleanup_model(ModelWrapper(with_pooling(onnx.load(file)))).transform(GemmToMatMul())
    model = cleanup_model(model).transform(ConvertToChannelsLastAndClean()).transform(GemmToMatMul())
    model = cleanup_model(model)
    config = hls4ml.utils.config_from_onnx_model(
        model, granularity="name", backend="Vitis", default_precision=precision
    )
    converted = hls4ml.converters.convert_from_onnx_model(
        model, output_dir=str(folder / "project"), io_type="io_stream", backend="Vitis", hls_config=config
    )
    converted.compile()
    built = perf_counter() - started
    entering = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
    started = perf_counter()
    outputs = converted.predict(entering).reshape(len(inputs), -1)
    ran = perf_counter() - started
    np.save(folder / "outputs.npy", outputs)
    print(json.dumps({"build": built, "run": ran, **lines(folder / "project" / "firmware")}))


def with_pooling(model: onnx.ModelProto) -> onnx.ModelProto:
    """The mean over an image as a global pooling and a reshape: hls4ml reads no ReduceMean."""
    nodes = []
    for node in model.graph.node:
        if node.op_type == "ReduceMean":
            pooled, shape = f"{node.output[0]}_pooled", f"{node.output[0]}_shape"
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, -1]), shape))
            nodes.append(onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled]))
            nodes.append(onnx.helper.make_node("Reshape", [pooled, shape], [node.output[0]]))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def lines(firmware: Path) -> dict[str, int]:
    """Lines of code that are this network's own, of the library that they include, not of numbers."""
    own = [file for file in firmware.glob("*") if file.suffix in {".cpp", ".h"}]
    library = list((firmware / "nnet_utils").glob("*.h"))

    def count(files: list[Path]) -> int:
        return sum(len(file.read_text().splitlines()) for file in files)

    return {"own": count(own), "library": count(library)}


if __name__ == "__main__":
    main()
