"""Random integer networks: the compiled C against the reference. Prints seed, counts and seconds.

    .venv/bin/python benchmarks/integer_properties.py [--cases 1000] [--seed 1]

Ends with 1, and the first operator that differs, if one network differs in one integer. Signed overflow and shifts that
C leaves undefined stop the program: the sources are compiled with a sanitizer that traps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from integer.natively import natively
from integer.networks import some_inputs, some_networks
from pocketpipe.integer import reference
from pocketpipe.integer.comparing import first_difference
from pocketpipe.integer.graph import IntegerGraph

BATCH = 50
"""Networks in one library."""
TRAPPING = ("-O1", "-fsanitize=undefined", "-fsanitize-trap=undefined")


def main() -> int:
    arguments = _arguments()
    started = time.perf_counter()
    graphs = some_networks(arguments.cases, arguments.seed)
    kinds = Counter(type(operator).__name__ for graph in graphs for operator in graph.operators)
    integers = 0
    for first in range(0, len(graphs), BATCH):
        batch = graphs[first : first + BATCH]
        with tempfile.TemporaryDirectory() as folder:
            for number, (graph, run) in enumerate(zip(batch, natively(batch, Path(folder), *TRAPPING), strict=True)):
                inputs = some_inputs(graph, seed=first + number)
                found, expected = run(inputs), reference.run(graph, inputs)
                integers += expected.size
                if not np.array_equal(found, expected):
                    difference = first_difference(graph, partial(_alone, Path(folder)), inputs)
                    print(f"seed {arguments.seed}, network {first + number}: {difference and difference.message}")
                    return 1
    seconds = time.perf_counter() - started
    print(f"seed {arguments.seed}: {len(graphs)} networks, {integers:,} output integers, none differs; {seconds:.0f} s")
    print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    return 0


def _alone(folder: Path, graph: IntegerGraph, inputs: np.ndarray) -> np.ndarray:
    (run,) = natively([graph], Path(tempfile.mkdtemp(dir=folder)))
    return run(inputs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
