"""What each criterion of channel pruning keeps, without training after the cut, alone and with reconstruction.

    python benchmarks/channel_criteria.py
    POCKETPIPE_DATA=FOLDER python benchmarks/channel_criteria.py --cifar10

The first trains a ResNet-8 for digits (seed 0); the second takes the given ResNet-20 from FOLDER/pretrained. All groups
are thinned alike (the same keep ratio, on the budget); the last row ranks all channels by Taylor for each MAC instead.
BatchNorm is re-estimated everywhere. Accuracy on val; for the given weights, which have seen it, on one half of test.
Prints a Markdown table.
"""

import argparse
import os
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from pocketpipe.budget import Limits
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.channels.ranking import ranked
from pocketpipe.compression.importance import CRITERIA
from pocketpipe.compression.tracing import trace
from pocketpipe.network import NETWORKS, load_weights
from pocketpipe.networks.weights import read_weights
from pocketpipe.plan import CompressionPlan
from pocketpipe.samples import prepared, prepared_batches, to_tensor
from pocketpipe.task import Split, Task, TaskChoice

EPOCHS, BATCH, RATE = 20, 64, 0.1


def main() -> None:
    """One row a criterion, two figures for each ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar10", action="store_true")
    parser.add_argument("--speedups", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parser.add_argument("--examples", type=int, default=2000)
    given = parser.parse_args()
    root = Path(os.environ.get("POCKETPIPE_DATA", "data"))
    task = TaskChoice(name="cifar10" if given.cifar10 else "digits").build(root)
    splits, _ = task.load(seed=0, holdout="test_half" if given.cifar10 else None)
    network = _given(task, root) if given.cifar10 else _trained(task, splits.train)
    accuracy = partial(_accuracy, task, splits.selection, given.examples)
    profile = trace(network, task.input_shape).profile()

    print(f"dense: {accuracy(network):.1f} %, {splits.selection.name} (at most {given.examples})\n")
    print("| criterion |" + "".join(f" {speedup:g}x alone | reconstructed |" for speedup in given.speedups) + " s |")
    print("|---|" + "---|---|" * len(given.speedups) + "---|")
    for criterion in (*CRITERIA, "taylor, ranked"):
        start, cells = perf_counter(), []
        for speedup in given.speedups:
            limits = Limits(macs=int(profile.cost().macs / speedup))
            if criterion in CRITERIA:
                step = ChannelsStep(widths={}, criterion=criterion).project(profile, limits)
            else:
                step = ranked(network, task, splits.train, profile, limits, "taylor", minimum=4)
            pinned = step.pin(network, task, splits.train)
            for reconstruction in (None, "least_squares"):
                plan = CompressionPlan((pinned.model_copy(update={"reconstruction": reconstruction}),))
                cells.append(accuracy(plan.carry_out(network, task, splits.train)[0]))
        seconds = (perf_counter() - start) / len(given.speedups)
        print(f"| {criterion} | " + " | ".join(f"{cell:.1f}" for cell in cells) + f" | {seconds:.1f} |", flush=True)


def _accuracy(task: Task, split: Split, examples: int, network: nn.Module) -> float:
    with torch.no_grad():
        outputs = torch.cat([network.eval()(batch) for batch in prepared_batches(task, split, 250, limit=examples)])
    return 100 * task.metric(outputs.numpy(), split.targets[:examples])


def _given(task: Task, root: Path) -> nn.Module:
    network = NETWORKS.resolve("resnet20")(task.input_shape, len(task.labels))
    load_weights(network, read_weights(root / "pretrained/resnet20-cifar10.safetensors"), of="resnet20")
    return network.eval()


def _trained(task: Task, train: Split) -> nn.Module:
    """ResNet-8 after a short training: SGD with momentum, cosine to zero, augmented."""
    torch.manual_seed(0)
    network = NETWORKS.resolve("resnet8")(task.input_shape, len(task.labels)).train()
    optimizer = torch.optim.SGD(network.parameters(), RATE, 0.9, weight_decay=5e-4, nesterov=True)
    steps = EPOCHS * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    inputs, targets = to_tensor(train.inputs), to_tensor(train.targets)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(train), generator=generator).split(BATCH):
            optimizer.zero_grad()
            view = prepared(task.preprocessing, task.augment(inputs[chosen], generator))
            task.loss(network(view), targets[chosen]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


if __name__ == "__main__":
    main()
