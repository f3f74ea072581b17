"""predict, metric_of and prepared_batches against direct calls of the network."""

import numpy as np
import pytest
import torch

from pocketpipe.samples import prepared, prepared_batches, to_tensor
from pocketpipe.task import Preprocessing
from pocketpipe.training.inference import metric_of, predict
from training.samples import Blobs, blobs, normalized

SPLIT = blobs("val", 50, 0)


def test_outputs_are_those_of_the_network_in_eval_mode_in_batches_that_memory_allows(monkeypatch) -> None:
    network = normalized((1, 6, 6), 4).train()
    monkeypatch.setattr("pocketpipe.samples.ELEMENTS", 7 * 36)
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    outputs = predict(network, Blobs(), SPLIT.inputs)
    assert seen == [7] * 7 + [1]
    assert network.training
    assert outputs.dtype == np.float32
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(Blobs.preprocessing(SPLIT.inputs)))
    assert np.allclose(outputs, expected.numpy(), atol=1e-6)


def test_metric_is_the_tasks_mean_score() -> None:
    network = normalized((1, 6, 6), 4)
    outputs = predict(network, Blobs(), SPLIT.inputs)
    assert metric_of(network, Blobs(), SPLIT) == (outputs.argmax(1) == SPLIT.targets).mean()


def test_a_metric_of_numpy_becomes_a_number_that_checkpoints_hold() -> None:
    class Bare(Blobs):
        def metric(self, outputs: np.ndarray, targets: np.ndarray) -> float:
            return self.scores(outputs, targets).mean()

    assert type(metric_of(normalized((1, 6, 6), 4), Bare(), SPLIT)) is float


@pytest.mark.parametrize("stored", [">f4", ">u2", ">i8", ">f8"])
def test_the_order_of_bytes_does_not_matter(stored: str) -> None:
    whole = SPLIT.inputs.astype(stored)
    assert np.array_equal(to_tensor(whole).numpy(), SPLIT.inputs)
    assert np.array_equal(prepared(Blobs.preprocessing, to_tensor(whole)).numpy(), Blobs.preprocessing(SPLIT.inputs))


def test_what_was_prepared_while_trying_serves_in_training_too() -> None:
    once = Preprocessing(mean=(0.123,), std=(4.0,))
    inputs = torch.ones(2, 1, 3, 3)
    with torch.inference_mode():
        prepared(once, inputs)
    inputs.requires_grad_()
    prepared(once, inputs).sum().backward()
    assert inputs.grad is not None
    assert torch.equal(inputs.grad, torch.full_like(inputs, 0.25))


def test_prepared_batches_hold_the_split_in_order() -> None:
    batches = list(prepared_batches(Blobs(), SPLIT, 20))
    assert [len(batch) for batch in batches] == [20, 20, 10]
    assert np.array_equal(torch.cat(batches).numpy(), Blobs.preprocessing(SPLIT.inputs))
