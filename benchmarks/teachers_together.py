"""What our CIFAR-10 teachers know together, and whether they have memorized the views that they were taught on.

    POCKETPIPE_DATA=... python benchmarks/teachers_together.py [--views 0 5 11 100 101]

POCKETPIPE_DATA holds cifar-10-batches-py/. Weights are those of benchmarks/weights. The first table is on val (5,000 of
the training images, seed 0): the mean of all logits. The second asks the second ResNet-56, which was taught on views 0
to 11 of seed 0 with a square of 8 pixels hidden, about the first images of these and of other views of train, and tells
how many of its teachers' wrong answers it repeats.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pocketpipe import machine
from pocketpipe.compression.distillation import merged_logits
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.samples import prepared_batches
from pocketpipe.task import Task, TaskChoice
from pocketpipe.training.batches import Batches, Shard

WEIGHTS = Path(__file__).parent / "weights"
TEACHERS = {
    "resnet56": "resnet56",
    "resnet56_fourth": "resnet56",
    "resnet56_third": "resnet56",
    "resnet56_second": "resnet56",
    "resnet56_first": "resnet56",
    "resnet20": "resnet20",
    "airbench": "airbench",
    "airbench_second": "airbench",
    "airbench_third": "airbench",
}
"""Files of weights, and the networks that they are of."""
ITS_TEACHERS, TEMPERATURE = ("resnet56_first", "resnet20"), 4.0
"""Of the second ResNet-56."""
TAUGHT_VIEWS, IMAGES = 12, 6144


def main() -> None:
    """Two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, nargs="+", default=[0, 5, 11, 100, 101])
    views = parser.parse_args().views
    task = TaskChoice(name="cifar10", options={"cutout": 8}).build(machine.data_root())
    splits, _ = task.load(seed=0, holdout=None)
    networks = {name: network(name, task) for name in TEACHERS}
    targets = torch.from_numpy(splits.val.targets)
    logits = {name: asked(each, prepared_batches(task, splits.val, 250)) for name, each in networks.items()}
    print(f"| mean of logits on {splits.val.name} | accuracy | cross-entropy |\n|---|---:|---:|")
    for some in (names for count in range(1, len(logits) + 1) for names in combinations(logits, count)):
        print(row(", ".join(some), torch.stack([logits[name] for name in some]).mean(0), targets))
    batches = Batches(task, splits.train, 128, 0, Shard(), torch.device("cpu"), TAUGHT_VIEWS)
    print(
        f"\n| resnet56 on the first {IMAGES:,} images of a view of train | accuracy | cross-entropy |\n|---|---:|---:|"
    )
    targets = torch.from_numpy(splits.train.targets[:IMAGES])
    for view in views:
        answers = asked(networks["resnet56_second"], batches.view(view))
        taught = "taught" if view < TAUGHT_VIEWS else "never seen"
        print(row(f"view {view}, {taught}", answers, targets))
        teachers = [asked(networks[name], batches.view(view)) for name in ITS_TEACHERS]
        print(repeated(answers.argmax(1), merged_logits(teachers, TEMPERATURE).argmax(1), targets))


def repeated(student: Tensor, teachers: Tensor, targets: Tensor) -> str:
    """What the student says where its teachers are wrong, and where they are right, as a line below the row."""
    wrong = teachers != targets
    same = (student[wrong] == teachers[wrong]).double().mean().item()
    lost = (student[~wrong] != targets[~wrong]).double().mean().item()
    return (
        f"| its teachers are wrong on {int(wrong.sum())}: the same wrong answer on {100 * same:.0f} % of these; "
        f"wrong on {100 * lost:.1f} % of the others | | |"
    )


def network(name: str, task: Task) -> nn.Module:
    """The network with the weights of that file, in eval mode."""
    stored = replace(StoredNetwork(TEACHERS[name]), state=read_weights(WEIGHTS / f"{name}.safetensors"))
    return stored.build(task)


def asked(network: nn.Module, parts: Iterator[Tensor]) -> Tensor:
    """Logits of the first `IMAGES` of prepared inputs, or of all."""
    answers: list[Tensor] = []
    with torch.no_grad():
        for part in parts:
            answers.append(network(part))
            if sum(map(len, answers)) >= IMAGES:
                break
    return torch.cat(answers)[:IMAGES]


def row(name: str, logits: Tensor, targets: Tensor) -> str:
    """A line of the table; targets are those of the first examples."""
    targets = targets[: len(logits)]
    right = (logits.argmax(1) == targets).double().mean().item()
    return f"| {name} | {100 * right:.2f} % | {cross_entropy(logits, targets).item():.3f} |"


if __name__ == "__main__":
    main()
