"""Publish a teacher that the teacher stage has trained: weights in float16, and a card that says where they come from.

    POCKETPIPE_DATA=... python benchmarks/teacher_card.py OUTPUT_FOLDER "COMMAND THAT TRAINED IT" [--earlier "WHAT"]

OUTPUT_FOLDER: what POCKETPIPE_OUTPUT was; its latest teacher is taken. Writes NETWORK.safetensors and NETWORK.md in
benchmarks/weights. Test is looked at here, once, with the weights as published. `--earlier`: if the training started
from weights, where they came from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pocketpipe import machine
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.record import StageRecord
from pocketpipe.task import Split, Task, TaskChoice
from pocketpipe.training.inference import predict

WEIGHTS = Path(__file__).parent / "weights"
EVERY = 10
"""Epochs between two rows of the curve."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("command")
    parser.add_argument("--earlier", default="")
    asked = parser.parse_args()
    stage = asked.output / "teacher"
    stored = stage / "teacher" / "latest" / "network"
    record = StageRecord.model_validate_json((stage / "teacher_record" / "latest" / "value.json").read_text())
    provenance = json.loads((stage / "teacher_record" / "latest" / "provenance.json").read_text())
    name = json.loads((stored / "network.json").read_text())["reference"]
    exact = read_weights(stored / "weights.safetensors")
    halves = {key: value.half() if value.is_floating_point() else value for key, value in exact.items()}
    WEIGHTS.mkdir(exist_ok=True)
    file = WEIGHTS / f"{name}.safetensors"
    save_file(halves, file)

    task = TaskChoice(name="cifar10").build(machine.data_root())
    splits, test = task.load(seed=int(provenance["parameters"]["seed"]), holdout=None)
    full = accuracy(name, exact, task, splits.val)
    published = {
        key: value.float() if value.is_floating_point() else value for key, value in read_weights(file).items()
    }
    half = accuracy(name, published, task, splits.val)
    (WEIGHTS / f"{name}.md").write_text(f"""# {name} on CIFAR-10

`{file.name}`: {file.stat().st_size:,} bytes, float16, SHA-256 `{hashlib.sha256(file.read_bytes()).hexdigest()}`.

| split | accuracy |
|---|---:|
| {splits.val.name} | {half:.4f} (in float32 {full:.4f}) |
| {test.name}, opened once, with this file | {accuracy(name, published, task, test):.4f} |

Trained from {record.facts["start"]} on {splits.train.name}, with no other image seen; the weights are those after the
last epoch (their moving average, where the recipe has one). Nothing was chosen on test.
{asked.earlier}

    {asked.command}

Seed {provenance["parameters"]["seed"]}, torch {provenance["engines"]["torch"]}, {code(provenance)}.
Recipe: `{provenance["parameters"]["teacher"]}`.

SHA-256 of the splits: train `{splits.train.digest}`, val `{splits.val.digest}`, test `{test.digest}`.

| epoch | training loss | val accuracy |
|---:|---:|---:|
{curve(record)}
""")


def code(provenance: dict[str, Any]) -> str:
    """What trained it: the commit, or where there was none the digest of the stage's code."""
    commit = provenance["commit"]
    return f"commit `{commit['hash']}`" if commit else f"code `{provenance['code']}`"


def accuracy(name: str, weights: dict[str, torch.Tensor], task: Task, split: Split) -> float:
    network = replace(StoredNetwork(name), state=weights).build(task)
    return task.metric(predict(network, task, split.inputs), split.targets)


def curve(record: StageRecord) -> str:
    """Every tenth epoch and the last."""
    losses, accuracies = record.curves["train_loss"], record.curves["val_accuracy"]
    shown = sorted({*range(EVERY, len(losses) + 1, EVERY), len(losses)})
    return "\n".join(f"| {epoch} | {losses[epoch - 1]:.4f} | {accuracies[epoch - 1]:.4f} |" for epoch in shown)


if __name__ == "__main__":
    main()
