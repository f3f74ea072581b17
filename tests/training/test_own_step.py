"""A user's steps: what lies on weights is kept by training and export, exchanged modules are there in a replay."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from own.steps import Clipped, Rounded
from pocketpipe.errors import UserError
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import STEPS, CompressionPlan, Step
from training.samples import Blobs, blobs, train

PAGE = Path(__file__).parents[2] / "docs" / "your-own.md"


def _of_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> type[Step]:
    """The step of docs/your-own.md, in the module that the page names."""
    section = PAGE.read_text(encoding="utf-8").split("## A compression step")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    (folder / "my_package").mkdir()
    (folder / "my_package" / "steps.py").write_text(code.group(1))
    monkeypatch.syspath_prepend(folder)
    return STEPS.resolve("my_package.steps:Rounded")


@pytest.mark.parametrize("page", [False, True])
def test_weights_on_a_grid_stay_there_through_training_and_export(
    page: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounding = _of_the_page(tmp_path, monkeypatch) if page else Rounded
    task, dense = Blobs(), StoredNetwork("training.samples:normalized")
    plan = CompressionPlan((rounding(grid=16),))
    assert CompressionPlan.from_json(plan.to_json()) == plan
    rounded, plan = plan.carry_out(dense.build(task), task, blobs("train", 32, 0))
    start = replace(dense, plan=plan).with_weights(rounded)
    trained = train(tmp_path, start=start).network
    file = onnx.load_from_string(export_onnx(trained.build(task).eval(), task.input_shape))
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in file.graph.initializer]
    (matrix,) = [array for array in arrays if array.ndim == 2 and array.dtype == np.float32]
    assert np.array_equal(matrix * 16, (matrix * 16).round())
    assert len(np.unique(matrix)) > 5
    name = "5.parametrizations.weight.original"
    assert not np.array_equal(trained.state[name].numpy(), start.state[name].numpy()), "it was trained"


def test_modules_are_exchanged_and_statistics_measured_anew() -> None:
    task, dense = Blobs(), StoredNetwork("training.samples:normalized")
    data = blobs("train", 32, 0)
    network = dense.build(task).eval()
    (norm,) = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)][:1]
    with torch.no_grad():
        norm.running_mean.fill_(100.0)
    clipped, plan = CompressionPlan((Clipped(),)).carry_out(network, task, data)
    assert not any(type(module) is nn.ReLU for module in clipped.modules())
    assert any(type(module) is nn.ReLU for module in network.modules()), "the network itself is left alone"
    assert next(m for m in clipped.modules() if isinstance(m, nn.BatchNorm2d)).running_mean.max() < 50
    again = CompressionPlan.from_json(plan.to_json()).steps[0].apply(dense.build(task), task)
    assert again.state_dict().keys() == clipped.state_dict().keys()
    with pytest.raises(UserError, match=r"Clipped: no nn\.ReLU in the network"):
        Clipped().apply(nn.Linear(3, 2), task)
