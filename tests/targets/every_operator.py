"""A quantized file for the targets that deliver C: what the networks of the zoo do not try."""

from __future__ import annotations

import numpy as np

from integer.qdq import File


def every_operator() -> bytes:
    """One file with every operator that the zoo does not have."""
    file = File((4, 6, 6))
    random = np.random.default_rng(0)
    x = file.on_grid("input", 0.0307, -9)
    grid = (0.0231, 4)
    gate = file.on_grid(file.node("Sigmoid", file.on_grid(file.node("GlobalAveragePool", x), 0.01, 3)), 1 / 256, -128)
    gated = file.on_grid(file.node("Mul", x, gate), 0.0207, -5)
    largest = file.on_grid(file.node("MaxPool", gated, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), *grid)
    average = file.on_grid(file.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), *grid)
    both = file.on_grid(file.node("Concat", average, largest, axis=1), *grid)
    grouped = file.node("Conv", both, file.weight(random.integers(-127, 128, (6, 4, 3, 3)), np.full(6, 0.0103)),
                        group=2, dilations=[2, 2], pads=[2, 2, 2, 2])  # fmt: skip
    y = file.on_grid(file.node("Relu", grouped), 0.0507, -128)
    padded = file.node("Pad", y, file.constant(np.array([0, 1, 0, 0, 0, 0, 1, 2])))
    cut = file.node("Slice", padded, *(file.constant(np.array([v])) for v in (1, 7, 1, 2)))
    rows = file.node("Reshape", cut, file.constant(np.array([1, 3, -1])))
    product = file.on_grid(file.node("MatMul", rows, file.node("Transpose", rows, perm=[0, 2, 1])), 0.307, 7)
    weight, bias = (file.constant(random.normal(0, 1, 3).astype(np.float32)) for _ in range(2))
    normal = file.on_grid(file.node("LayerNormalization", product, weight, bias), 0.0307, 5)
    product = file.on_grid(file.node("Add", product, file.on_grid(file.node("Softmax", normal), 1 / 256, -128)), 0.307)
    difference = file.on_grid(file.node("Sub", product, file.on_grid(file.node("Neg", product), 0.21)), 0.41, 1)
    return file.bytes(difference)
