"""A plan carried out in stages: what is cut when, by which weights, and that a kill changes nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.errors import UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan
from pocketpipe.profile import NetworkProfile
from pocketpipe.storage import load_network
from pocketpipe.training import train as train_module
from pocketpipe.training.fit import Fitted
from pocketpipe.training.recipe import FinetuneRecipe
from pocketpipe.training.staged import fit_in_stages
from training.samples import RECIPE, SETTINGS, TASK, Blobs, deep, train


class Whole(ChannelsStep):
    """As a step without portions of its own behaves."""

    kind = "training.test_staged:Whole"

    def in_portions(self, profile: NetworkProfile, count: int) -> tuple[ChannelsStep, ...]:
        return (self,)


def in_stages(**stages: Any) -> FinetuneRecipe:
    distillation = {"weight": 0.5, "cached_views": 2}
    return FinetuneRecipe.model_validate({**RECIPE.model_dump(), "distillation": distillation, "stages": stages})


PORTIONS = in_stages(by="portions", count=3, epochs=2)
LAYERS = in_stages(by="layers", every=1, epochs=1)
PLAN = CompressionPlan((ChannelsStep(widths={"0": 2, "3": 3}),))
"""Of 8 and 6 channels."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the network at full size lies."""
    folder = tmp_path_factory.mktemp("start")
    train(folder, network=deep, seed=8)
    return folder / "result"


@pytest.fixture(scope="module")
def start(begun: Path) -> StoredNetwork:
    return load_network(begun)


@pytest.fixture(scope="module")
def portions_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `in_portions` was made."""
    return tmp_path_factory.mktemp("portions")


@pytest.fixture(scope="module")
def in_portions(portions_workspace: Path, start: StoredNetwork) -> Fitted:
    """The student after PORTIONS, as most tests look at it."""
    return staged(portions_workspace, start, PORTIONS)


def staged(workspace: Path, start: StoredNetwork, recipe: FinetuneRecipe, plan: CompressionPlan = PLAN) -> Fitted:
    splits, _ = Blobs().load(seed=0, holdout=None)
    assert recipe.stages is not None
    return fit_in_stages(
        start, plan, profile(start), recipe.stages, TASK, Path("."), splits, recipe, SETTINGS,
        seed=3, workspace=workspace, teacher=start, title="staged",
    )  # fmt: skip


def profile(stored: StoredNetwork) -> NetworkProfile:
    return profile_of(stored.build(Blobs()), Blobs.input_shape)


def trained_between(workspace: Path) -> list[StoredNetwork]:
    return [load_network(folder / "result") for folder in sorted(workspace.glob("stage-*"))]


def test_the_cuts_lead_to_the_plan(portions_workspace: Path, start: StoredNetwork, in_portions: Fitted) -> None:
    leads_to_the_plan(portions_workspace, start, in_portions, PORTIONS, cuts=3)


def test_so_do_cuts_by_layers(tmp_path: Path, start: StoredNetwork) -> None:
    leads_to_the_plan(tmp_path, start, staged(tmp_path, start, LAYERS), LAYERS, cuts=2)


def leads_to_the_plan(
    workspace: Path, start: StoredNetwork, fitted: Fitted, recipe: FinetuneRecipe, *, cuts: int
) -> None:
    dense = profile(start)
    assert len(fitted.network.plan.steps) == cuts
    assert fitted.network.plan.predict(dense).cost() == PLAN.predict(dense).cost()
    assert profile(fitted.network).cost() == PLAN.predict(dense).cost()
    costs = [profile(network).cost().macs for network in trained_between(workspace)]
    assert len(costs) == cuts - 1, "the whole fine-tuning follows the last cut"
    assert dense.cost().macs > costs[0] >= costs[-1] > PLAN.predict(dense).cost().macs
    assert [stage["cut"] for stage in fitted.facts["stages"]] == ["channels"] * (cuts - 1)
    assert len(fitted.curves["train_loss"]) == recipe.epochs
    assert not (workspace / "taught").exists()


def test_each_cut_is_chosen_by_the_weights_that_the_training_before_it_left(
    portions_workspace: Path, start: StoredNetwork, in_portions: Fitted
) -> None:
    networks, steps = (start, *trained_between(portions_workspace)), in_portions.network.plan.steps
    for network, step in zip(networks, steps, strict=True):
        assert isinstance(step, ChannelsStep)
        opened = step.model_copy(update={"channels": None})
        splits, _ = Blobs().load(seed=0, holdout=None)
        assert opened.pin(network.build(Blobs()), Blobs(), splits.train) == step


def test_a_plan_that_is_pinned_already_is_opened_again(
    tmp_path: Path, start: StoredNetwork, in_portions: Fitted
) -> None:
    channels = {"0": (0, 1), "3": (0, 1, 2)}
    pinned = CompressionPlan((ChannelsStep(widths={"0": 2, "3": 3}, channels=channels),))
    fitted = staged(tmp_path, start, PORTIONS, pinned)
    assert fitted.network.digest() == in_portions.network.digest()


def test_a_step_without_portions_is_carried_out_at_once(tmp_path: Path, start: StoredNetwork) -> None:
    fitted = staged(tmp_path, start, PORTIONS, CompressionPlan((Whole(widths={"0": 2}),)))
    assert len(fitted.network.plan.steps) == 1
    assert fitted.facts["stages"] == []


def test_portions_that_lead_elsewhere_are_refused_before_any_training(tmp_path: Path, start: StoredNetwork) -> None:
    class Wrong(ChannelsStep):
        kind = "training.test_staged:Wrong"

        def in_portions(self, profile: NetworkProfile, count: int) -> tuple[ChannelsStep, ...]:
            return (ChannelsStep(widths={"0": 3}),)

    with pytest.raises(UserError, match=r"parts of step training.test_staged:Wrong do not lead to the cost"):
        staged(tmp_path, start, PORTIONS, CompressionPlan((Wrong(widths={"0": 2}),)))
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from pocketpipe.storage import load_network
from pocketpipe.training import callbacks
from training import test_staged

left = int(sys.argv[3])
original = callbacks.EpochCheckpoint.on_train_epoch_end
def killing(self, trainer, module):
    global left
    original(self, trainer, module)
    if "stage" in str(self._file):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
callbacks.EpochCheckpoint.on_train_epoch_end = killing
test_staged.staged(Path(sys.argv[1]), load_network(Path(sys.argv[2])), test_staged.PORTIONS)
"""


@pytest.mark.parametrize(
    "epochs", [pytest.param(2, marks=pytest.mark.slow, id="end of stage 1"), pytest.param(3, id="within stage 2")]
)
def test_killed_it_ends_in_the_same_bytes(
    tmp_path: Path, begun: Path, start: StoredNetwork, portions_workspace: Path, in_portions: Fitted, epochs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(begun), str(epochs)]
    assert subprocess.run(command, env=environment, timeout=120, check=False).returncode == -signal.SIGKILL
    assert [path.name for path in sorted(tmp_path.glob("stage-*"))][-1] == f"stage-{epochs - 1}"

    trained: list[str] = []
    original = train_module.train
    monkeypatch.setattr(train_module, "train", lambda job, *a: (trained.append(job.title), original(job, *a)))
    resumed = staged(tmp_path, start, PORTIONS)

    assert resumed.network.digest() == in_portions.network.digest()
    assert resumed.network.plan == in_portions.network.plan
    places = (portions_workspace, tmp_path)
    weights = [(place / "whole/result/weights.safetensors").read_bytes() for place in places]
    assert weights[0] == weights[1]
    assert trained == [*[f"staged, stage {n} of 3" for n in (1, 2) if n >= epochs - 1], "staged"]


def test_the_short_trainings_differ_from_the_whole_one_in_length_and_rate_alone() -> None:
    recipe = in_stages(by="portions", count=2, epochs=1, learning_rate=0.01)
    assert recipe.stages is not None
    short, whole = recipe.between_stages(recipe.stages), recipe.plain
    changed = {name for name in type(whole).model_fields if getattr(short, name) != getattr(whole, name)}
    assert changed == {"epochs", "warmup_epochs", "learning_rate"}
    assert short.warmup_epochs == pytest.approx(1 / 3)
    assert short.learning_rate == 0.01
