"""How far windows reach beyond what they slide over, where a file says so by words (SAME, ceil_mode)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pocketpipe.integer.lowering import Lowering
from pocketpipe.integer.onnx_file import attributes

if TYPE_CHECKING:
    from onnx import NodeProto

Lengths = Sequence[int]
"""One for each axis along which windows slide."""


def reach(
    lowering: Lowering, node: NodeProto, lengths: Lengths, made: Lengths, spans: Lengths, strides: Lengths
) -> tuple[list[int], list[int]]:
    """(before, after): what is added to each axis so that `made` windows of `spans` fit `lengths`.

    Pads that are given are left as they are; with ceil_mode a last window may reach further. Raises UserError where it
    would begin there: ONNX's inference of shapes for older opsets counts such a window, while ONNX Runtime and PyTorch
    leave it out; and where SAME leaves out what lies behind the last window, by halves in ONNX Runtime alone.
    """
    given, axes = attributes(node), len(lengths)
    how, pads = given.get("auto_pad", b"NOTSET"), [int(pad) for pad in given.get("pads", [0] * 2 * axes)]
    ends = [(m - 1) * stride + span for m, stride, span in zip(made, strides, spans, strict=True)]
    missing = [max(end - length, 0) for end, length in zip(ends, lengths, strict=True)]
    if how.startswith(b"SAME") and any(length - end > 1 for end, length in zip(ends, lengths, strict=True)):
        raise lowering.refusal(node, "auto_pad with windows that leave two places or more out; say its pads in numbers")
    if how == b"SAME_UPPER":
        pads = [pad // 2 for pad in missing] + [0] * axes
    elif how == b"SAME_LOWER":
        pads = [pad - pad // 2 for pad in missing] + [0] * axes
    elif how == b"VALID":
        pads = [0] * 2 * axes
    elif how != b"NOTSET":
        raise lowering.refusal(node, f"auto_pad is {how.decode()!r}, which ONNX does not know")
    before, said = pads[:axes], pads[axes:]
    behind = (end - span >= length + b for end, span, length, b in zip(ends, spans, lengths, before, strict=True))
    if given.get("ceil_mode", 0) and any(behind):
        raise lowering.refusal(node, "its last window would begin behind its input; leave out ceil_mode")
    after = [max(s, end - length - b) for s, end, length, b in zip(said, ends, lengths, before, strict=True)]
    return before, after
