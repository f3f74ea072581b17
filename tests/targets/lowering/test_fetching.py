"""Weights that are asked for ahead: where there are many of them, and only there."""

from pathlib import Path

import pytest

from pocketpipe.targets.lowering.fetching import SMALLEST
from pocketpipe.targets.lowering.integers import kernel as integers
from pocketpipe.targets.lowering.integers.geometry import SumOfProducts
from pocketpipe.targets.lowering.kernel import kernel
from pocketpipe.targets.lowering.nest import matrix_product
from pocketpipe.targets.lowering.objects import write_object
from pocketpipe.targets.x86_64 import LEVELS

CPU = LEVELS["v4-vnni"].cpu()
OUTPUTS = 64


@pytest.mark.parametrize(("weight_bytes", "asked"), [(SMALLEST, True), (SMALLEST // 2, False)])
@pytest.mark.parametrize("numbers", ["float", "integers"])
def test_many_weights_are_asked_for_ahead(numbers: str, weight_bytes: int, asked: bool, tmp_path: Path) -> None:
    if numbers == "float":
        inputs = weight_bytes // 4 // OUTPUTS
        nest = matrix_product((1, inputs), (inputs, OUTPUTS), constant=True)
        assert nest is not None
        made = kernel(nest, CPU)
    else:
        made = integers.kernel(
            SumOfProducts(1, 1, 1, 1, groups=1, read=weight_bytes // OUTPUTS, made=OUTPUTS), CPU.unit
        )
    write_object({"layer": made}, CPU, tmp_path / "layer.s")
    assert ("prefetch" in (tmp_path / "layer.s").read_text()) == asked
