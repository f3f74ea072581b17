"""Windows whose place follows from how many there are (ceil_mode, auto_pad): as ONNX Runtime places them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from integer.qdq import File, as_written
from integer.test_lowering import agrees, some
from pocketpipe.errors import UserError
from pocketpipe.integer.lowering import lower

BEHIND, SIZES = "its last window would begin behind its input", "windows of several sizes (pads that are not counted)"
AUTOMATIC = ("SAME_UPPER", "SAME_LOWER", "VALID")


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    """Explicit pads with or without ceil_mode, or automatic ones."""
    axes = draw(st.integers(1, 2))
    each = st.lists(st.integers(1, 4), min_size=axes, max_size=axes)
    kernel, strides = draw(each), draw(each)
    auto = draw(st.sampled_from(("NOTSET", "NOTSET", *AUTOMATIC)))
    placed: dict[str, Any] = {"auto_pad": auto}
    if auto.startswith("SAME"):  # else ONNX Runtime has negative pads
        strides = [min(each) for each in zip(kernel, strides, strict=True)]
    if auto == "NOTSET":
        pads = [draw(st.integers(0, (size - 1) // 2)) for size in kernel * 2]
        placed = {"pads": pads, "ceil_mode": draw(st.integers(0, 1))}
    return {"kernel_shape": kernel, "strides": strides, **placed}


def _refusal(made: bytes) -> str:
    try:
        lower(made)
    except UserError as refused:
        return str(refused).partition("Pool): ")[2].partition(";")[0]
    return ""


@settings(max_examples=60, deadline=None)
@given(pools(), st.integers(4, 9))
def test_any_maximum(pool: dict[str, Any], length: int) -> None:
    shape = (3, length, 5)[: 1 + len(pool["kernel_shape"])]
    file = File(shape)
    made = file.bytes(file.node("MaxPool", file.on_grid("input", 0.0307, -9), **pool))
    assume(_refusal(made) != BEHIND)
    agrees(made, some(length, *shape), share=0)


@settings(max_examples=30, deadline=None)
@given(pools(), st.integers(4, 9))
def test_an_average_is_right_or_refused(pool: dict[str, Any], length: int) -> None:
    shape = (3, length, 5)[: 1 + len(pool["kernel_shape"])]
    file = File(shape)
    pooled = file.node("AveragePool", file.on_grid("input", 0.0307, -9), count_include_pad=length % 2, **pool)
    made = file.bytes(file.on_grid(pooled, 0.0203, 5))
    assume(_refusal(made) not in (BEHIND, SIZES))
    agrees(made, some(length, *shape), share=0.02)


@pytest.mark.parametrize(
    "pool",
    [
        {"pads": [1, 1, 1, 1]},
        {"auto_pad": "SAME_UPPER"},
        {"ceil_mode": 1, "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ],
)
def test_an_average_of_windows_of_several_sizes_is_refused(pool: dict[str, Any]) -> None:
    file = File((3, 6, 6))
    pooled = file.node("AveragePool", file.on_grid("input", 0.05), kernel_shape=[3, 3], **pool)
    with pytest.raises(UserError, match=r"\(AveragePool\): windows of several sizes .*`count_include_pad=True`"):
        lower(file.bytes(file.on_grid(pooled, 0.05)))


def test_an_average_whose_windows_fit_may_have_any_mode() -> None:
    for length, pool in ((6, {"ceil_mode": 1}), (6, {"auto_pad": "SAME_UPPER"}), (7, {"auto_pad": "VALID"})):
        file = File((3, length, 4))
        pooled = file.node("AveragePool", file.on_grid("input", 0.0307), kernel_shape=[2, 2], strides=[2, 2], **pool)
        agrees(file.bytes(file.on_grid(pooled, 0.0203, 5)), some(1, 3, length, 4))


@pytest.mark.parametrize("auto", AUTOMATIC)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (4, 3), (1, 2)])
def test_a_convolution_that_pads_by_itself(auto: str, kernel: int, stride: int) -> None:
    for shape in ((3, 7, 6), (3, 8)):
        axes = len(shape) - 1
        file = File(shape)
        weight = file.weight(np.random.default_rng(0).integers(-127, 128, (4, 3, *[kernel] * axes)), np.full(4, 0.0103))
        y = file.node("Conv", file.on_grid("input", 0.0211, 5), weight, auto_pad=auto, strides=[stride] * axes)
        agrees(file.bytes(file.on_grid(y, 0.0507)), some(2, *shape), share=0.01)


def test_same_with_windows_that_leave_places_out_is_refused() -> None:
    """ONNX's inference begins at the first place, ONNX Runtime leaves out half of them in front."""
    file = File((3, 8))
    pooled = file.node("MaxPool", file.on_grid("input", 0.05), kernel_shape=[2], strides=[4], auto_pad="SAME_UPPER")
    with pytest.raises(UserError, match=r"\(MaxPool\): auto_pad with windows that leave two places or more out"):
        lower(file.bytes(pooled))


def test_a_last_window_behind_the_image_is_refused() -> None:
    """ONNX's inference counts three windows, ONNX Runtime two."""
    file = File((3, 4))
    pooled = file.node("MaxPool", file.on_grid("input", 0.05), kernel_shape=[1], strides=[2], ceil_mode=1)
    made = file.bytes(pooled)
    assert as_written(made, some(1, 3, 4)).shape == (8, 3, 2)
    with pytest.raises(UserError, match=r"\(MaxPool\): its last window would begin behind its input"):
        lower(made)
