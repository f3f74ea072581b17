"""A user's step that lays something on weights: training and export keep it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from own.steps import Rounded
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan
from training.samples import Blobs, blobs, train


def test_weights_on_a_grid_stay_there_through_training_and_export(tmp_path: Path) -> None:
    task, dense = Blobs(), StoredNetwork("training.samples:normalized")
    plan = CompressionPlan((Rounded(grid=16),))
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
