"""Every network that comes with pocketpipe, quantized: it has integers whose sums fit, and C gives the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compression.zoo import WHOLE_ZOO
from exporting.test_qdq import _exported, _inputs
from integer.natively import natively
from pocketpipe.integer import reference
from pocketpipe.integer.lowering import lower
from pocketpipe.integer.proof import prove


@pytest.mark.parametrize(("name", "shape"), WHOLE_ZOO)
def test_every_network_has_its_integers(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    _, onnx_file = _exported(name, shape)
    graph = lower(onnx_file)
    prove(graph)
    entering = graph.quantized(_inputs(shape, 4))
    expected = reference.run(graph, entering)
    assert len(np.unique(expected)) > 2
    (run,) = natively([graph], tmp_path)
    assert np.array_equal(run(entering), expected)
