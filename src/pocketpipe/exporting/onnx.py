"""PyTorch to ONNX: BatchNorm folded, nothing in the file but the network, the same bytes in every process.

ONNX Runtime on the file is the reference that everything delivered is compared with. The file takes one example
(batch 1), which is what is delivered and compiled. Values between nodes carry no shapes
(`onnx.shape_inference.infer_shapes` gives them back); initializers keep the names of the network's parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.compression.codebook.parametrization import shared_weights
from pocketpipe.compression.modules import device_of
from pocketpipe.compression.weights import bare
from pocketpipe.errors import UserError
from pocketpipe.exporting.executing import run_onnx
from pocketpipe.exporting.factors import factor_out
from pocketpipe.exporting.qdq import OPSET, exportable, is_quantized
from pocketpipe.exporting.qdq_file import finish, share_equal
from pocketpipe.quiet import quiet
from pocketpipe.samples import examples_at_once, in_batches

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

INPUT_NAME = "input"
OUTPUT_NAME = "output"

CHECKED_AT_ONCE = 64
"""Examples that PyTorch is given together; fewer, if one is large."""
TOLERANCE = 1e-4
"""Largest difference to PyTorch that an export may have, relative to the largest output."""

NOISE = 0.05
"""Largest difference that an export of a quantized network may have, as root mean square relative to the outputs."""

SHARED_BY_EXPORTER = 1024
"""Elements up to which the exporter itself lets equal constants be one: a larger weight that is used several times lies
in the file, transposed for each use, as often."""

_CHATTY_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")
"""Of the exporter: no torchvision, deprecations inside torch."""


def export_onnx(network: nn.Module, input_shape: tuple[int, ...]) -> bytes:
    """`network` (in eval mode, on CPU, in float32) as an ONNX file: input (1, *input_shape), one output.

    BatchNorm after a convolution or a linear layer is folded into it; masks are zeros in the weights. `network` is not
    changed.
    Raises UserError for an operator that ONNX does not have, and for more than one output.
    """
    import torch

    example = torch.zeros(1, *input_shape)
    if is_quantized(network):
        prepared = exportable(network)
        model = _export(prepared.network.cpu().float().eval(), example, prepared.opset)
        if prepared.four_bit_layers and any(node.op_type == "MatMul" for node in model.graph.node):
            # ONNX Runtime 1.32 makes a Gemm of a product and a sum, and then refuses what it made under this opset.
            prepared = exportable(network, newest=OPSET)
            model = _export(prepared.network.cpu().float().eval(), example, prepared.opset)
        finish(model, prepared.four_bit_layers)
    else:
        model = _export(bare(network).cpu().float().eval(), example, OPSET)
        share_equal(model.graph, above=SHARED_BY_EXPORTER)
    if len(model.graph.output) != 1:
        raise UserError(f"network returns {len(model.graph.output)} outputs; export needs exactly one tensor")
    _strip(model)
    _make_zeros_positive(model)
    factor_out(model, shared_weights(network))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@dataclass(frozen=True)
class ExportCheck:
    """What ONNX Runtime makes of the file beside what PyTorch makes of the network, (N, ...) each."""

    outputs: np.ndarray
    expected: np.ndarray

    @property
    def difference(self) -> float:
        """The largest absolute difference."""
        return float(np.abs(self.outputs - self.expected).max())

    @property
    def allowed(self) -> float:
        """The largest difference of outputs that count as equal."""
        return TOLERANCE * float(np.abs(self.expected).max())

    @property
    def equal_share(self) -> float:
        """Share of the outputs that are equal."""
        return float((np.abs(self.outputs - self.expected) <= self.allowed).mean())

    @property
    def noise(self) -> float:
        """Root mean square of the difference, relative to that of the outputs."""
        return float(np.sqrt(np.square(self.outputs - self.expected).mean() / np.square(self.expected).mean()))


def check_export(onnx: bytes, network: nn.Module, prepared_inputs: np.ndarray) -> ExportCheck:
    """Compare the file in ONNX Runtime with `network` (in eval mode) in PyTorch.

    Raises UserError for a difference above `TOLERANCE` times the largest output; for a quantized network, where sums
    that differ in the seventh digit now and then round to other integers, for more than `NOISE`.
    """
    import torch

    device = device_of(network)
    at_once = examples_at_once(prepared_inputs.shape[1:], fewest=1, most=CHECKED_AT_ONCE)
    with torch.no_grad():
        # Copies: a forward may change in place what it is given.
        parts = [network(torch.tensor(part, device=device)) for part in in_batches(prepared_inputs, at_once)]
        expected = torch.cat(parts).cpu().numpy()
    check = ExportCheck(run_onnx(onnx, prepared_inputs), expected)
    is_same = check.noise <= NOISE if is_quantized(network) else check.difference <= check.allowed
    if not is_same:  # NaN is no less than anything
        raise UserError(
            f"the exported ONNX file differs from PyTorch by {check.difference:.3g}, allowed {check.allowed:.3g}: "
            "is the network in eval mode, and does its forward depend on the data or on chance?"
        )
    return check


def _export(network: nn.Module, example: torch.Tensor, opset: int) -> onnx.ModelProto:
    import torch

    try:
        with quiet(_CHATTY_LOGGERS), torch.no_grad():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                optimize=True,  # folds constants, and BatchNorm into Conv, ConvTranspose and Gemm
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"network cannot be exported to ONNX: {_root_cause(error)}") from error
    assert program is not None, "torch.onnx.export returns a program when dynamo=True"
    return program.model_proto


def _root_cause(error: BaseException) -> str:
    """First line of the innermost error: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _strip(model: onnx.ModelProto) -> None:
    """Remove what is no part of the network: stack traces (with this machine's paths), doc strings, shapes between."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    for entries in (graph.node, graph.initializer, graph.input, graph.output):
        for entry in entries:
            entry.ClearField("metadata_props")
            entry.ClearField("doc_string")
    used = {node.domain for node in graph.node} | {""}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)


def _make_zeros_positive(model: onnx.ModelProto) -> None:
    """Folding a negative scale of BatchNorm turns the zeros of a mask into -0, which is not stored as a zero."""
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if (np.signbit(values) & (values == 0)).any():
                tensor.CopyFrom(numpy_helper.from_array(values + np.float32(0), tensor.name))
