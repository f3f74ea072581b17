"""Layers with channels that were quantized to nothing: a scale of 0, as tools write masked channels."""

from __future__ import annotations

import numpy as np
import pytest

from integer.qdq import File
from integer.test_lowering import agrees, some
from pocketpipe.errors import UserError
from pocketpipe.integer.graph import Convolution, Linear
from pocketpipe.integer.lowering import lower


@pytest.mark.parametrize("scales", [[0.0103, 0.0, 0.0071, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0]])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_a_channel_of_scale_zero_is_its_bias(operator: str, with_bias: bool, scales: list[float]) -> None:
    random = np.random.default_rng(0)
    shape = (3, 5, 4) if operator.startswith("Conv") else (6,)
    file = File(shape)
    axis = 0 if operator == "Conv" else 1
    of_weight = {"Conv": (4, 3, 3, 3), "ConvTranspose": (3, 4, 3, 3)}.get(operator, (6, 4))
    weight = file.weight(random.integers(-127, 128, of_weight), np.array(scales), axis=axis)
    bias = file.constant(np.array([0.5, -1.23, 0.0, 2.71], np.float32))
    inputs = [file.on_grid("input", 0.0211, 5), weight]
    y = file.node(operator, *inputs, *([bias] if with_bias and operator != "MatMul" else []))
    y = file.node("Add", y, bias) if with_bias and operator == "MatMul" else y
    graph = agrees(file.bytes(file.on_grid(y, 0.0507, 3)), some(1, *shape), share=0.01)
    (layer,) = (each for each in graph.operators if isinstance(each, (Convolution, Linear)))
    of_nothing = np.resize(np.resize(scales, 4) == 0, len(layer.weight))
    assert not layer.weight[of_nothing].any()


def test_a_bias_that_is_no_number_is_refused() -> None:
    file = File((6,))
    weight = file.weight(np.ones((6, 2)), np.full(1, 0.01), axis=1)
    bias = file.constant(np.array([0.5, np.nan], np.float32))
    y = file.node("Gemm", file.on_grid("input", 0.0211, 5), weight, bias)
    with pytest.raises(UserError, match=r"\(Gemm\): its bias does not fit 32 bits"):
        lower(file.bytes(file.on_grid(y, 0.05)))


@pytest.mark.parametrize("scale", [0.0, -0.1, np.inf, np.nan])
@pytest.mark.parametrize("place", ["entry", "end"])
def test_a_tensor_whose_scale_is_no_step_is_refused(scale: float, place: str) -> None:
    file = File((6,))
    x = file.on_grid("input", scale if place == "entry" else 0.05)
    y = file.bytes(file.on_grid(file.node("Relu", x), 0.05 if place == "entry" else scale))
    with pytest.raises(UserError, match=rf"node 'n\d+' \(QuantizeLinear\): its scale is {scale:g}; is the network cal"):
        lower(y)
