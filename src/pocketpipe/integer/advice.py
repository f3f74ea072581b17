"""What to do instead, where a file has no integer form: in the words of the tool that wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import NodeProto

WAYS_OUT = {
    "InstanceNormalization": "; use BatchNorm, or LayerNorm over the last axis, in place of GroupNorm and InstanceNorm",
    "GroupNormalization": "; use BatchNorm, or LayerNorm over the last axis, in its place",
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "; `unrolled` gives the network one (docs/your-own.md)"),
    **dict.fromkeys(
        ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"),
        "; quantize statically and in QDQ format (ONNX Runtime: `quantize_static`, `QuantFormat.QDQ`)",
    ),
}
"""What to do instead, by operator."""

OWN_DOMAINS = ("", "ai.onnx")

STANDARD_PAIRS = "; for int8 and uint8 ONNX Runtime writes ONNX's own, without the option `UseQDQContribOps`"
WAYS_BACK = {
    "com.microsoft": "; quantize with `QuantFormat.QDQ`, and save no graph that ONNX Runtime has optimized",
    **dict.fromkeys(("qonnx.custom_op.general", "onnx.brevitas"), "; Brevitas writes ONNX's own by `export_onnx_qcdq`"),
}
"""How tools are told to write ONNX's own operators, by the domain of theirs."""

LAST = (
    "QuantizeLinear is missing (pocketpipe: `output: quantized`; Brevitas: `output_quant`; "
    "TensorRT Model Optimizer: `output_quantizer`)"
)
"""What tools call the quantization of a result, which some leave out by default."""

SYMMETRIC = "quantize weights around zero (ONNX Runtime's option `WeightSymmetric`)"
"""Where a weight's integers, less their zero point, take nine bits."""


def way_back(node: NodeProto) -> str:
    """How the tool that wrote an operator of its own is told to write ONNX's."""
    if node.domain == "com.microsoft" and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return STANDARD_PAIRS
    return WAYS_BACK.get(node.domain, "")
