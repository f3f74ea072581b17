"""What is left of a network right after a cut, without training.

    python benchmarks/one_shot.py
    POCKETPIPE_DATA=... python benchmarks/one_shot.py --task cifar10 --network resnet56 \\
        --weights pretrained/resnet56_second.safetensors --speedups 1.5 2 2.5 [--holdout test_half] [--beside]

Every criterion, and whole blocks: alone, with BatchNorm re-estimated, reconstructed, both; and Torch-Pruning beside.
Without `--weights` (relative to POCKETPIPE_DATA) the base recipe trains the network, seed 0. A criterion thins all
groups alike (the same keep ratio, on the budget); `ranked` takes the channels of all groups in one order, by Taylor
for each MAC, `inside blocks` those that no addition ties. Figures are on the first `--examples` of val (of one half
of test with `--holdout test_half`, for weights that have seen val). At the end, for each speedup, test (the other
half) is opened once for the row that val puts first of ours and of Torch-Pruning's. `--beside` needs `pip install
--no-deps torch-pruning==1.6.1`; it gets what helps ours: the channels inside blocks only, its own global ranking, and
our re-estimation of BatchNorm behind it. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pocketpipe import machine
from pocketpipe.budget import Limits
from pocketpipe.compression.batchnorm import reestimate_on
from pocketpipe.compression.blocks import BlocksStep
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.channels.ranking import ranked
from pocketpipe.compression.importance import CRITERIA
from pocketpipe.compression.members import made_by_one
from pocketpipe.compression.tracing import profile_of, trace
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.samples import prepared_batches
from pocketpipe.task import Split, TaskChoice
from pocketpipe.training.fit import fit
from pocketpipe.training.inference import metric_of
from pocketpipe.training.recipe import Recipe, TrainerSettings

RECIPE = Recipe(epochs=40, batch_size=64, learning_rate=0.2, warmup_epochs=4, weight_decay=5e-4, label_smoothing=0.05)
MINIMUM = 4
"""Fewest channels that a ranking leaves in a group."""
WAYS: dict[str, dict[str, Any]] = {
    "alone": {"statistics": "kept", "reconstruction": None},
    "BatchNorm re-estimated": {"statistics": "reestimated", "reconstruction": None},
    "reconstructed": {"statistics": "kept", "reconstruction": "least_squares"},
    "both": {"statistics": "reestimated", "reconstruction": "least_squares"},
}


def main() -> None:
    """One table for each speedup."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--holdout")
    parser.add_argument("--network", default="resnet8")
    parser.add_argument("--weights")
    parser.add_argument("--speedups", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--beside", action="store_true")
    given = parser.parse_args()
    bench = Bench(given)
    dense = bench.accuracy(bench.network)
    print(f"{given.network}, dense: {dense:.1f} % on {bench.splits.selection.name}, at most {given.examples}")
    for speedup in given.speedups:
        bench.table(speedup)


class Bench:
    """The network, its data, and a table a speedup."""

    def __init__(self, given: argparse.Namespace) -> None:
        choice = TaskChoice(name=given.task, holdout=given.holdout)
        self.task = choice.build(machine.data_root())
        self.splits, self.test = self.task.load(seed=0, holdout=given.holdout)
        self.examples, self.beside = given.examples, given.beside
        stored = StoredNetwork(given.network)
        if given.weights is not None:
            stored = replace(stored, state=read_weights(machine.data_root() / given.weights))
        else:
            with tempfile.TemporaryDirectory() as scratch:
                stored = fit(
                    stored, choice, machine.data_root(), self.splits, RECIPE, TrainerSettings(), seed=0,
                    workspace=Path(scratch), title="teacher",
                ).network  # fmt: skip
        self.network = stored.build(self.task).eval()
        self.profile = profile_of(self.network, self.task.input_shape)

    def table(self, speedup: float) -> None:
        """Print a row for each way to cut, then what val puts first on test."""
        limits = Limits(macs=int(self.profile.cost().macs / speedup))
        print(f"\n| {speedup:g}x fewer MACs | " + " | ".join(WAYS) + " |\n|---" + "|---:" * len(WAYS) + "|", flush=True)
        ours = [self.row(name, list(self.carried_out(step))) for name, step in self.steps(limits)]
        theirs = []
        if self.beside:
            for name, kind in (("magnitude", "MagnitudeImportance"), ("Taylor", "TaylorImportance")):
                pruned = self.torch_pruned(kind, limits)
                theirs.append(self.row(f"Torch-Pruning, {name}, inside blocks", [pruned, self.reestimated(pruned)]))
        print()
        for whose, rows in (("ours", ours), ("Torch-Pruning", theirs)):
            if rows:
                _, name, network = max(rows, key=lambda row: row[0])
                print(f"{whose} on {self.test.name}, {name}: {100 * metric_of(network, self.task, self.test):.2f} %")

    def steps(self, limits: Limits) -> Iterator[tuple[str, Step]]:
        """Ways to cut, pinned to the network."""
        thin = partial(ranked, self.network, self.task, self.splits.train, self.profile, limits, minimum=MINIMUM)
        inside = made_by_one(self.network, trace(self.network, self.task.input_shape).groups)
        for criterion in CRITERIA:
            step = ChannelsStep(widths={}, criterion=criterion).project(self.profile, limits)
            yield criterion, step.pin(self.network, self.task, self.splits.train)
        yield "taylor, ranked", thin("taylor")
        yield (
            "taylor, ranked, inside blocks",
            thin("taylor", groups=set(inside) & {g.name for g in self.profile.groups}),
        )
        if self.profile.runs:
            blocks = BlocksStep()
            for point in blocks.informed(self.network, self.task, self.splits.train, self.profile, limits):
                fewer = blocks.proposed(point, self.profile)
                yield "whole blocks, by loss", fewer.pin(self.network, self.task, self.splits.train)

    def carried_out(self, step: Step) -> Iterator[nn.Module]:
        """The network after the step, each way."""
        for options in WAYS.values():
            plan = CompressionPlan((step.model_copy(update=options),))
            yield plan.carry_out(self.network, self.task, self.splits.train)[0].eval()

    def torch_pruned(self, importance: str, limits: Limits) -> nn.Module:
        """By Torch-Pruning: the least share of the channels inside blocks that keeps the limits, ranked globally."""
        low, high = 0.0, 0.95
        for _ in range(7):
            share = (low + high) / 2
            kept = limits.keeps(profile_of(self.torch_pruned_by(importance, share), self.task.input_shape).cost())
            low, high = (low, share) if kept else (share, high)
        return self.torch_pruned_by(importance, high)

    def torch_pruned_by(self, importance: str, share: float) -> nn.Module:
        """A share of all channels inside blocks; Taylor from 512 training images, labels smoothed as for ours.

        Only the dense network is traced before: a trace is remembered, and the pruner changes its network in place.
        """
        import torch_pruning

        pruned = copy.deepcopy(self.network)
        example = torch.randn(1, *self.task.input_shape)
        inside = set(made_by_one(self.network, trace(self.network, self.task.input_shape).groups))
        ignored = [
            module
            for name, module in pruned.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear) and name not in inside
        ]
        pruner = torch_pruning.pruner.BasePruner(
            pruned, example, importance=getattr(torch_pruning.importance, importance)(), pruning_ratio=share,
            max_pruning_ratio=0.9, global_pruning=True, ignored_layers=ignored,
        )  # fmt: skip
        if importance == "TaylorImportance":
            batches = prepared_batches(self.task, self.splits.train, 128, limit=512)
            targets = torch.from_numpy(self.splits.train.targets[:512]).split(128)
            for images, labels in zip(batches, targets, strict=True):
                nn.functional.cross_entropy(pruned(images), labels, label_smoothing=0.1).backward()
        pruner.step()
        pruned.zero_grad()
        return pruned.eval()

    def reestimated(self, network: nn.Module) -> nn.Module:
        """A copy with BatchNorm's statistics measured anew."""
        again = copy.deepcopy(network)
        reestimate_on(again, self.task, self.splits.train)
        return again.eval()

    def row(self, name: str, networks: list[nn.Module]) -> tuple[float, str, nn.Module]:
        """Print a line; the best of its accuracies, what it is called, and its network."""
        figures = [self.accuracy(network) for network in networks]
        cells = [f"{figure:.1f}" for figure in figures] + ["-"] * (len(WAYS) - len(figures))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        best = max(range(len(figures)), key=figures.__getitem__)
        return figures[best], f"{name}, {list(WAYS)[best]}", networks[best]

    def accuracy(self, network: nn.Module) -> float:
        """In % on the first examples of the data that is chosen on."""
        data = self.splits.selection
        data = Split(data.name, data.inputs[: self.examples], data.targets[: self.examples])
        return 100 * metric_of(network, self.task, data)


if __name__ == "__main__":
    main()
