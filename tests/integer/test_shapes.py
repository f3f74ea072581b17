"""What a file does not say, or says in operators that are not ONNX's: one line, never a traceback or a shape of ()."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from integer.qdq import File, as_written
from pocketpipe.errors import UserError
from pocketpipe.integer import reference
from pocketpipe.integer.lowering import lower


def _reshaped() -> onnx.ModelProto:
    """Behind a Reshape whose shape is data: the output says what nothing but folding can know."""
    file = File((3, 4))
    shape = file.node("Add", file.constant(np.array([0, 6])), file.constant(np.array([1, 6])))
    y = file.on_grid(file.node("Relu", file.node("Reshape", file.on_grid("input", 0.05), shape)), 0.05)
    return onnx.load_from_string(file.bytes(y))


def _told(model: onnx.ModelProto, name: str, dims: list[int | str] | None) -> bytes:
    kept = [value for value in model.graph.value_info if value.name != name]
    del model.graph.value_info[:]
    model.graph.value_info.extend([*kept, helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)])
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("dims", [None, [1, "length"], ["batch", "length"], [1, 0]])
def test_a_shape_that_nobody_knows_is_refused_by_name(
    dims: list[int | str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketpipe.integer.onnx_file._has_to_be_folded", lambda model: False)
    model = _reshaped()
    reshaped = next(node.output[0] for node in model.graph.node if node.op_type == "Reshape")
    with pytest.raises(UserError, match=r"node 'n\d+' \(Reshape\): the shape of 'v\d+', which it makes, is not known"):
        lower(_told(model, reshaped, dims))


@pytest.mark.parametrize("dims", [[1, 12], ["batch", 12], None, ["batch", "length"]])
def test_a_shape_that_the_file_tells_will_do(dims: list[int | str]) -> None:
    model = _reshaped()
    reshaped = next(node.output[0] for node in model.graph.node if node.op_type == "Reshape")
    graph = lower(_told(model, reshaped, dims))
    assert graph.tensors[graph.output].shape == (12,)


def test_an_input_without_shape_is_refused() -> None:
    model = onnx.load_from_string(File((3,)).bytes("input"))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UserError, match="input 'input' has no shape; export the network with a fixed shape"):
        lower(model.SerializeToString())


def test_a_file_that_contradicts_itself_is_told_in_a_line() -> None:
    """Axes are no attribute any more in its opset."""
    file = File((3,))
    model = onnx.load_from_string(file.bytes(file.on_grid(file.node("Relu", file.on_grid("input", 0.05)), 0.05)))
    model.graph.node.append(helper.make_node("Unsqueeze", ["input"], ["more"], "added", axes=[1]))
    with pytest.raises(UserError, match=r"the ONNX file contradicts itself: .*Unsqueeze") as refused:
        lower(model.SerializeToString())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("domain", "operator", "said"),
    [
        ("com.microsoft", "QuantizeLinear", "`UseQDQContribOps`"),
        ("com.microsoft", "BiasGelu", "`QuantFormat.QDQ`"),
        ("qonnx.custom_op.general", "Quant", "`export_onnx_qcdq`"),
        ("my.own", "Relu", "which has no integer form"),
    ],
)
def test_operators_of_others_are_refused(domain: str, operator: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"node 'n\d+' \({operator}\): is of the domain '{domain}', .*{said}"):
        lower(_of_domain(domain, operator))


def test_what_onnx_calls_itself_does_not_matter() -> None:
    assert lower(_of_domain("ai.onnx", "Relu")).operators


def _of_domain(domain: str, operator: str) -> bytes:
    file = File((3,))
    model = onnx.load_from_string(file.bytes(file.on_grid(file.node("Relu", file.on_grid("input", 0.05)), 0.05)))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = operator, domain
    model.opset_import.append(helper.make_opsetid(domain, 18))
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("swapped", [False, True])
def test_tensors_of_unequal_ranks_meet_at_their_last_axes(operator: str, swapped: bool) -> None:
    """Also where the number of examples is that of an axis."""
    file = File((12, 6))
    x = file.on_grid("input", 0.05)
    largest = file.on_grid(file.node("ReduceMax", x, file.constant(np.array([1])), keepdims=0), 0.05)
    ends = (largest, x) if swapped else (x, largest)
    data = file.bytes(file.on_grid(file.node(operator, *ends), 0.11))
    inputs = np.random.default_rng(0).normal(size=(12, 12, 6)).astype(np.float32)
    graph = lower(data)
    found = graph.real(reference.run(graph, graph.quantized(inputs)))
    assert np.abs(found - as_written(data, inputs)).max() <= 0.11 * 1.01
