"""How long it takes to trace and slim, and which networks can be thinned, beside Torch-Pruning.

    python benchmarks/tracing.py [--beside]

`--beside` needs `pip install --no-deps torch-pruning==1.6.1`. It halves all channels of the test networks (from
tests/compression; random weights, seed 0) with its magnitude pruner as it comes, the last layer left whole and no
hints given, and ours; prints the share of parameters that is left, and what its result says when it is run.
"""

import argparse
import copy
import sys
from pathlib import Path
from time import perf_counter, process_time

import torch
from torch import nn

from pocketpipe.compression.slimming import slim
from pocketpipe.compression.tracing import Trace, trace
from pocketpipe.network import NETWORKS

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
Shape = tuple[int, ...]
PHOTOGRAPH: Shape = (3, 224, 224)
SMALL: Shape = (3, 32, 32)


def main() -> None:
    """Print one or two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", action="store_true")
    beside = parser.parse_args().beside
    trace(NETWORKS.resolve("lenet")((1, 8, 8), 10).eval(), (1, 8, 8))  # imports of torch.export
    print("| network | input | trace s | slim s | of it CPU s |\n|---|---|---:|---:|---:|")
    for name, shape in (("resnet50", PHOTOGRAPH), ("resnet56", SMALL), ("mobilenet_v2", SMALL)):
        network = NETWORKS.resolve(name)(shape, 1000).eval()
        started, computed = perf_counter(), process_time()
        traced = trace(network, shape)
        between = perf_counter()
        slim(network, traced, halves(traced))
        size = "x".join(map(str, shape))
        seconds = f"{between - started:.2f} | {perf_counter() - between:.2f} | {process_time() - computed:.2f}"
        print(f"| {name} | {size} | {seconds} |")
    if beside:
        print("\n| network | ours leaves | Torch-Pruning leaves |\n|---|---:|---|")
        for name, network, shape in networks():
            print(f"| {name} | {ours(network, shape):.2f} | {theirs(network, shape)} |")


def halves(traced: Trace) -> dict[str, list[int]]:
    """The first half of the channels of every group that can be thinned."""
    return {group.name: list(range((group.channels + 1) // 2)) for group in traced.groups if group.slimmable}


def networks() -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """The test networks and some of the zoo's."""
    from compression.odd_networks import ODD
    from compression.zoo import odd, zoo

    of_the_zoo = ("resnet20", "resnet18", "mobilenet_v2")
    return [*((name, *odd(name)) for name in sorted(ODD)), *((name, zoo(name, SMALL), SMALL) for name in of_the_zoo)]


def parameters(network: nn.Module) -> int:
    """How many there are."""
    return sum(parameter.numel() for parameter in network.parameters())


def ours(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Share of the parameters that is left."""
    traced = trace(network, shape)
    return parameters(slim(network, traced, halves(traced))) / parameters(network)


def theirs(network: nn.Module, shape: tuple[int, ...]) -> str:
    """The same, or the first line of what goes wrong."""
    import torch_pruning

    pruned, example = copy.deepcopy(network), torch.randn(1, *shape)
    layers = [module for module in pruned.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    magnitude = torch_pruning.importance.MagnitudeImportance(p=1)
    try:
        torch_pruning.pruner.MagnitudePruner(
            pruned, example, importance=magnitude, pruning_ratio=0.5, ignored_layers=layers[-1:]
        ).step()
        pruned(example)
    except Exception as error:  # whatever the pruner or the network that it leaves says
        return (str(error) or type(error).__name__).splitlines()[0]
    return f"{parameters(pruned) / parameters(network):.2f}"


if __name__ == "__main__":
    main()
