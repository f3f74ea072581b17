"""Bias correction: on the calibration data, the mean of every channel is the reference's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from compression.zoo import DIGIT, trained_looking, zoo
from pocketpipe.compression.quantization.bias_correction import correct_bias
from pocketpipe.compression.quantization.folding import fold_batchnorm
from pocketpipe.compression.weights import weight_of


def coarse(network: nn.Module) -> nn.Module:
    """A copy with weights rounded to 3 bits."""
    result = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in result.parameters():
            if parameter.dim() > 1:
                step = parameter.abs().amax() / 3
                parameter.copy_((parameter / step).round() * step)
    return result


def batches(*shape: int, sizes: tuple[int, ...] = (7, 16, 2)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(size, *shape, generator=generator) + 0.5 for size in sizes]


def means(network: nn.Module, data: list[Tensor], paths: list[str]) -> dict[str, Tensor]:
    """Mean of each channel, summed up example by example."""
    found: dict[str, list[Tensor]] = {path: [] for path in paths}
    handles = [
        network.get_submodule(path).register_forward_hook(
            lambda module, _, output, path=path: found[path].append(
                output.double() if output.dim() == 2 else output.double().mean(tuple(range(2, output.dim())))
            )
        )
        for path in paths
    ]
    with torch.no_grad():
        for batch in data:
            for example in batch:
                network(example[None])
    for handle in handles:
        handle.remove()
    return {path: torch.cat(rows).mean(0) for path, rows in found.items()}


def assert_corrected(quantized: nn.Module, reference: nn.Module, data: list[Tensor], paths: list[str]) -> None:
    expected, before = means(reference, data, paths), means(quantized, data, paths)
    correct_bias(quantized, reference, data)
    after = means(quantized, data, paths)
    for path in paths:
        scale = expected[path].abs().max()
        assert (before[path] - expected[path]).abs().max() > 1e-2 * scale, path
        assert (after[path] - expected[path]).abs().max() < 1e-5 * scale, path


def test_means_of_every_layer_come_back_in_batches_of_any_size() -> None:
    reference = fold_batchnorm(zoo("resnet8", DIGIT), DIGIT)
    layers = [path for path, module in reference.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    quantized = coarse(reference)
    weights = {path: weight_of(quantized, path).clone() for path in layers}
    assert_corrected(quantized, reference, batches(*DIGIT), layers)
    assert all(torch.equal(weights[path], weight_of(quantized, path)) for path in layers)


def test_without_a_bias_the_batchnorm_behind_takes_it() -> None:
    reference = zoo("resnet8", DIGIT)
    norms = [path for path, module in reference.named_modules() if isinstance(module, nn.BatchNorm2d)]
    quantized = coarse(reference)
    statistics = [buffer.clone() for buffer in quantized.buffers()]
    assert_corrected(quantized, reference, batches(*DIGIT), [*norms, "linear"])
    assert all(torch.equal(a, b) for a, b in zip(statistics, quantized.buffers(), strict=True))
    assert quantized.conv1.bias is None


def test_transposed_convolutions_and_linear_layers_on_sequences() -> None:
    network = trained_looking(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.ConvTranspose1d(3, 2, 2)))
    quantized = coarse(network)
    data = batches(3, 4)
    with torch.no_grad():
        expected = network[:2](torch.cat(data)).mean((0, 1)), network(torch.cat(data)).mean((0, 2))
        correct_bias(quantized, network, data)
        found = quantized[:2](torch.cat(data)).mean((0, 1)), quantized(torch.cat(data)).mean((0, 2))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


class Twice(nn.Module):
    """One layer is called twice, one has no bias and nothing behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.bare, self.head = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bare(self.step(self.step(x).tanh())).relu())


def test_what_cannot_be_corrected_is_left_alone() -> None:
    network = trained_looking(Twice())
    quantized = coarse(network)
    correct_bias(quantized, network, batches(4))
    assert torch.equal(quantized.step.bias, network.step.bias)
    assert not torch.equal(quantized.head.bias, network.head.bias)
    with torch.no_grad():
        error = (quantized(torch.cat(batches(4))) - network(torch.cat(batches(4)))).mean(0)
    assert error.abs().max() < 1e-5


def test_modes_and_gradients_are_as_before() -> None:
    reference = fold_batchnorm(zoo("resnet8", DIGIT), DIGIT)
    quantized = coarse(reference).train()
    correct_bias(quantized, reference, batches(*DIGIT, sizes=(4,)))
    assert all(module.training for module in quantized.modules())
    assert not reference.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in quantized.parameters())
    assert not quantized.conv1._forward_hooks
    with pytest.raises(ValueError, match="at least one batch"):
        correct_bias(quantized, reference, [])
