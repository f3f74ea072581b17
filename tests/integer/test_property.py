"""Random networks: the compiled C gives the integers of the reference."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from integer.natively import natively
from integer.networks import some_inputs, some_networks
from pocketpipe.integer import reference
from pocketpipe.integer.comparing import first_difference
from pocketpipe.integer.graph import IntegerGraph

COUNT = 24


def test_c_gives_the_references_integers_on_random_networks(tmp_path: Path) -> None:
    graphs = some_networks(COUNT, seed=8)
    assert len({type(operator) for graph in graphs for operator in graph.operators}) >= 15
    for graph, run in zip(graphs, natively(graphs, tmp_path), strict=True):
        inputs = some_inputs(graph)
        if not np.array_equal(run(inputs), reference.run(graph, inputs)):
            raise AssertionError(first_difference(graph, partial(_alone, tmp_path), inputs))


def _alone(folder: Path, graph: IntegerGraph, inputs: np.ndarray) -> np.ndarray:
    (run,) = natively([graph], Path(tempfile.mkdtemp(dir=folder)))
    return run(inputs)
