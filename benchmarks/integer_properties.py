"""Random integer networks on every target: their integers against the reference's. Prints a table, one row a target.

    python benchmarks/integer_properties.py [--cases 1000] [--first 0] [--seed 1] [--targets C x86_64 aarch64:300 ...]

`TARGET:N` runs N networks only: emulated and slower ones. With `--first` a run is done in parts: the networks of a seed
are always the same. "C" is the plain C99 of `armv7`, `cortex_m` and `fpga` on this machine, compiled with a sanitizer
that traps: signed overflow and undefined shifts stop the program. The others are deliveries, compiled whole
and executed, by QEMU where they are ARM's. Ends with 1 if one integer differs, and says at which operator.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from integer.natively import natively
from integer.networks import some_inputs, some_networks
from pocketpipe.integer import reference
from pocketpipe.integer.comparing import Runner, first_difference
from pocketpipe.integer.graph import Convolution, IntegerGraph
from pocketpipe.targets.base import TARGETS

PLAIN = "C"
BATCH = 25
"""Networks that a process takes at a time; in plain C, those in one library."""
TRAPPING = ("-O1", "-fsanitize=undefined", "-fsanitize-trap=undefined")


@dataclass(frozen=True)
class Case:
    """A network and its number, which is the seed of its inputs as well."""

    number: int
    graph: IntegerGraph

    def inputs(self) -> np.ndarray:
        return np.asarray(some_inputs(self.graph, seed=self.number))


@dataclass(frozen=True)
class Outcome:
    """Of some networks on one target."""

    integers: int
    seconds: float
    """Of processor time, with compilers and emulators."""
    differences: tuple[str, ...]


def main() -> int:
    arguments = _arguments()
    graphs = some_networks(arguments.first + arguments.cases, arguments.seed)
    cases = [Case(number, graph) for number, graph in enumerate(graphs)][arguments.first :]
    print(described(cases, arguments.seed), flush=True)
    print(
        "| target | networks | integers compared | differing networks | processor seconds |\n|---|---:|---:|---:|---:|"
    )
    differences: list[str] = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        for target, count in map(_target, arguments.targets):
            taken = cases[:count]
            batches = [taken[first : first + BATCH] for first in range(0, len(taken), BATCH)]
            parts = list(pool.map(partial(outcome, target), batches))
            found = [text for part in parts for text in part.differences]
            integers, seconds = sum(part.integers for part in parts), sum(part.seconds for part in parts)
            print(f"| {target} | {len(taken):,} | {integers:,} | {len(found)} | {seconds:.0f} |", flush=True)
            differences += found
    print("\n".join(differences), end="\n" if differences else "")
    return 1 if differences else 0


def described(cases: Sequence[Case], seed: int) -> str:
    """What was drawn."""
    operators = [operator for case in cases for operator in case.graph.operators]
    channels = {len(operator.bias) for operator in operators if isinstance(operator, Convolution)}
    kinds = Counter(type(operator).__name__ for operator in operators)
    return (
        f"seed {seed}: {len(cases):,} networks of {len(operators):,} operators, convolutions of {min(channels)} to "
        f"{max(channels)} channels: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}\n"
    )


def outcome(target: str, cases: Sequence[Case]) -> Outcome:
    """Of the networks of one batch."""
    started = _processor_seconds()
    integers, differences = 0, []
    for case, found, run in _found(target, cases):
        expected = reference.run(case.graph, case.inputs())
        integers += expected.size
        if not np.array_equal(found, expected):
            difference = first_difference(case.graph, run, case.inputs())
            differences.append(f"{target}, network {case.number}: {difference.message if difference else 'not again'}")
    return Outcome(integers, _processor_seconds() - started, tuple(differences))


def _found(target: str, cases: Sequence[Case]) -> Iterator[tuple[Case, np.ndarray, Runner]]:
    """Each network, the integers that the target makes of its inputs, and what makes those of other graphs."""
    if target == PLAIN:
        with tempfile.TemporaryDirectory() as folder:
            runs = natively([case.graph for case in cases], Path(folder), *TRAPPING)
            for case, run in zip(cases, runs, strict=True):
                yield case, run(case.inputs()), _alone
    else:
        compiled = TARGETS.resolve(target).run_integers
        for case in cases:
            yield case, compiled(case.graph, case.inputs()), compiled


def _processor_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _alone(graph: IntegerGraph, inputs: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        (run,) = natively([graph], Path(folder))
        return np.asarray(run(inputs))


def _target(text: str) -> tuple[str, int | None]:
    """NAME or NAME:COUNT."""
    name, _, count = text.partition(":")
    return name, int(count) if count else None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", nargs="*", default=[PLAIN, "x86_64", "x86_64-v3"], metavar="TARGET[:N]")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
