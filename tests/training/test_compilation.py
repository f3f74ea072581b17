"""Compiling what compression makes: the same function, compiled once, whatever the schedule sets on the way."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from pocketpipe.compression.during import scheduled
from pocketpipe.network import StoredNetwork
from pocketpipe.training import device
from pocketpipe.training.compilation import compiled_forward
from pocketpipe.training.distilling import Distillation, Hints
from pocketpipe.training.features import Watched
from pocketpipe.training.recipe import TrainerSettings
from training.samples import RECIPE, narrow, train
from training.test_average import following

INPUTS = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@torch._dynamo.config.patch(error_on_recompile=True)
def test_a_schedule_that_sets_buffers_does_not_compile_again() -> None:
    network = following((1, 6, 6), 4)
    watched = Watched(network, ("3",))
    forward = compiled_forward(watched, [INPUTS])
    assert forward != watched.forward, "compiled, not fallen back"
    for step in range(1, 5):
        for module in scheduled(network):
            module.at(step / 5)
        outputs, (features,) = forward(INPUTS)
        outputs.sum().backward()
        network(INPUTS)  # as validation does, around what is watched
        eager, (eager_features,) = watched.forward(INPUTS)
        assert torch.allclose(outputs, eager, atol=1e-5)
        assert torch.allclose(features, eager_features, atol=1e-5)


@pytest.mark.slow
def test_a_graph_module_compiles() -> None:
    graph: nn.Module = fx.symbolic_trace(following((1, 6, 6), 4))
    watched = Watched(graph)
    forward = compiled_forward(watched, [INPUTS])
    assert forward != watched.forward
    assert torch.allclose(forward(INPUTS)[0], graph(INPUTS), atol=1e-5)


def test_a_training_whose_compiler_failed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> object:
        raise RuntimeError("no linker")

    monkeypatch.setattr(torch, "compile", lambda *arguments, **options: broken)
    monkeypatch.setattr(device.shutil, "which", lambda name: f"/bin/{name}")
    fitted = train(tmp_path, network=narrow, settings=TrainerSettings(threads=1, compile="always"))
    assert fitted.facts["compiled"] == "no"


@pytest.mark.slow
def test_a_compiled_training_with_features_ends_as_the_plain_one(
    tmp_path: Path, teacher: StoredNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    hints = Distillation(weight=0.5, features=Hints(kind="hints", points=("2",)))
    recipe = RECIPE.model_copy(update={"distillation": hints})
    states: list[dict[str, Tensor]] = []
    caplog.set_level(logging.INFO, "pocketpipe")
    for how in ("never", "always"):
        settings = TrainerSettings(threads=1, compile=how)  # type: ignore[arg-type]
        fitted = train(tmp_path / how, network=narrow, recipe=recipe, settings=settings, teacher=teacher)
        assert fitted.curves["val_accuracy"][-1] > 0.9
        assert fitted.facts["compiled"] == ("yes" if how == "always" else "no")
        states.append(dict(fitted.network.state))
    assert "torch.compile failed" not in caplog.text
    assert states[0].keys() == states[1].keys()
