"""Random networks: the compiled C, and what targets deliver, give the integers of the reference."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from integer.natively import natively
from integer.networks import some_inputs, some_networks
from pocketpipe.delivery.model import cpu_flags
from pocketpipe.integer import reference
from pocketpipe.integer.comparing import first_difference
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.x86_64 import LEVELS, host_level

COUNT = 24
on_x86 = pytest.mark.skipif(not cpu_flags().issuperset(LEVELS["v3"].flags), reason="executes AVX2 code")
another_level = pytest.mark.skipif(host_level(cpu_flags()) is LEVELS["v3"], reason="x86_64 is v3 on this CPU")
emulated = pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="needs QEMU")


def test_c_gives_the_references_integers_on_random_networks(tmp_path: Path) -> None:
    graphs = some_networks(COUNT, seed=8)
    assert len({type(operator) for graph in graphs for operator in graph.operators}) >= 15
    for graph, run in zip(graphs, natively(graphs, tmp_path), strict=True):
        inputs = some_inputs(graph)
        if not np.array_equal(run(inputs), reference.run(graph, inputs)):
            raise AssertionError(first_difference(graph, partial(_alone, tmp_path), inputs))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        pytest.param("x86_64", 5, marks=on_x86),
        pytest.param("x86_64-v3", 3, marks=[on_x86, another_level]),
        pytest.param("aarch64", 40, marks=[emulated, pytest.mark.slow]),
        pytest.param("aarch64-cortex-a76", 40, marks=[emulated, pytest.mark.slow]),
    ],
)
def test_targets_give_the_references_integers_on_random_networks(name: str, count: int) -> None:
    run = TARGETS.resolve(name).run_integers
    for graph in some_networks(count, seed=9):
        inputs = some_inputs(graph)
        if not np.array_equal(run(graph, inputs), reference.run(graph, inputs)):
            raise AssertionError(first_difference(graph, run, inputs))


def _alone(folder: Path, graph: IntegerGraph, inputs: np.ndarray) -> np.ndarray:
    (run,) = natively([graph], Path(tempfile.mkdtemp(dir=folder)))
    return run(inputs)
